"""A run on a cluster whose nodes come, go and are killed, beside the same run on one machine."""
