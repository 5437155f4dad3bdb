"""Tests of `jobs/chaos/`."""
