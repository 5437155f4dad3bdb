"""Tests of `pipeline/phases/`."""
