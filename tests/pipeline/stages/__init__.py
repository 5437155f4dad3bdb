"""Tests of `pipeline/stages/`."""
