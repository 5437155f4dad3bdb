"""Tests of `actors/generation/`."""
