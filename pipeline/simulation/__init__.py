"""A run without models: the workers of a run as pure functions, with the protocols of the real."""
