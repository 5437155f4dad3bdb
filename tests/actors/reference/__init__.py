"""Tests of `actors/reference/`."""
