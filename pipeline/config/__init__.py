"""The settings of a run: their schema (the manual), loading, checks, and what a resume may
change."""
