"""Tests of `pipeline/grading/`."""
