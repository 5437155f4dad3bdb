"""The graders: a pool of processes with a deadline for each answer."""
