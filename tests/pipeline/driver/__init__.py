"""Tests of `pipeline/driver/`."""
