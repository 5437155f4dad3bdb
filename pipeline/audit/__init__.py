"""Looking back at a run: audit, trace, diff, and garbage."""
