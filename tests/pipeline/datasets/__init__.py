"""Tests of `pipeline/datasets/`."""
