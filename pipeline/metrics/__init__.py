"""Estimators: accuracy, Pass@K, votes, AUC, and their intervals."""
