"""The scorers: process reward models in Ray actors."""
