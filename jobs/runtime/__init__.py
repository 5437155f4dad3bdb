"""What all commands stand on: the command line, consoles, Ray, the workers of a run."""
