"""Tests of `pipeline/run/`."""
