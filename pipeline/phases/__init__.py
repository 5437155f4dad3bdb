"""What comes next in a run: one pure file for each phase."""
