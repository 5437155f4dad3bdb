"""Grading answers: text, structure (forms and their grammar), comparison, choices, the verdict."""
