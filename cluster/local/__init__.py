"""A Ray cluster of this machine's own: a head and worker nodes that an autoscaler starts and ends,
each with its own view of the file system."""
