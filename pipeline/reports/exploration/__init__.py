"""Reports of exploration: searches for a temperature, and dynamics, in words, tables and curves."""
