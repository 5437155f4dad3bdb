"""Tests of `pipeline/generation/`."""
