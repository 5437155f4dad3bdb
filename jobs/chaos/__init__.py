"""Kills a run again and again and compares what it made: `mstar-ray chaos`."""
