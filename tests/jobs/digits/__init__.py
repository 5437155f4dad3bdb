"""Tests of `jobs/digits/`."""
