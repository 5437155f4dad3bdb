"""What is trained: jobs, settings, rows, batches, segments, and metrics."""
