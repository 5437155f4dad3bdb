"""Tests of `requirements/`."""
