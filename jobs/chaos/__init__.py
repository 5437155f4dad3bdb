"""Kills a run again and again and compares what it made: `python -m jobs.chaos`."""
