"""Tests of `actors/training/`."""
