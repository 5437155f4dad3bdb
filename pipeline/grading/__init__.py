"""Grading answers: extraction, choices, quantities, expressions, and the verdict."""
