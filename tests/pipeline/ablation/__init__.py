"""Tests of `pipeline/metrics/`."""
