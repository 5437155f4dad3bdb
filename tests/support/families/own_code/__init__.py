"""Code as it lies in a model's folder: a model, its config and its processor."""
