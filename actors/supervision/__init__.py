"""What keeps actors alive: pools, guards, locks, caches on a node."""
