"""Tests of `pipeline/plan/`."""
