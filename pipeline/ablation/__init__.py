"""Tables of runs that differ in one setting, over seeds: their cells, their figures, their page."""
