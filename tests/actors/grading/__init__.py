"""Tests of `actors/grading/`."""
