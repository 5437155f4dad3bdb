"""Tests of `pipeline/reports/`."""
