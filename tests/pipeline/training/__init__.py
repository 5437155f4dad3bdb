"""Tests of `pipeline/training/`."""
