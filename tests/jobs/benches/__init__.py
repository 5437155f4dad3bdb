"""Tests of `jobs/benches/`."""
