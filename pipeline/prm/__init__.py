"""The process reward model's pure decisions: labels, completions, step scores, gate."""
