"""Tests of `pipeline/storage/`."""
