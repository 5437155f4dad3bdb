"""What is run only for the embedded task: pretraining its base, and studies of it."""
