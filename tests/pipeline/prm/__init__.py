"""Tests of `pipeline/prm/`."""
