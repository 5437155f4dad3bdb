"""Tests of `pipeline/tasks/`."""
