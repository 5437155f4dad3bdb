"""Tests of `pipeline/config/`."""
