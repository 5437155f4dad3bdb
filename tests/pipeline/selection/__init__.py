"""Tests of `pipeline/selection/`."""
