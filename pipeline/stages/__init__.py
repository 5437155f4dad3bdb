"""What is done with one shard: grading, scoring, selection, evaluation."""
