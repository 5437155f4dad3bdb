"""Tests of `pipeline/grading/benchmarks/`."""
