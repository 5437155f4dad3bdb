"""Tests of `actors/model/`."""
