"""Tests of `pipeline/audit/`."""
