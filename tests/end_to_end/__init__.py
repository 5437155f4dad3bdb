"""Whole runs with the real parts."""
