"""Policies and reward models on plain transformers, for pretraining and as a reference in tests."""
