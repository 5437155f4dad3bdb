"""The learner: a DeepSpeed group under Ray Train."""
