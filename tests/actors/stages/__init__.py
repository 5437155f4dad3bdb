"""Tests of `actors/stages/`."""
