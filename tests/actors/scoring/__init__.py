"""Tests of `actors/scoring/`."""
