"""Tests of `actors/supervision/`."""
