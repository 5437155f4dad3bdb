"""The driver: does what the phases ask for, and records it."""
