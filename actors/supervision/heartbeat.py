"""A heartbeat that an actor's work updates and its pool reads."""

from __future__ import annotations


class Heartbeat:
    """A count that grows while work moves, and what is being done."""

    def __init__(self) -> None:
        self.count = 0
        self.doing = ""

    def __call__(self, doing: str = "") -> None:
        self.count += 1
        self.doing = doing or self.doing

    def read(self) -> tuple[int, str]:
        """Count, and what is being done."""
        return self.count, self.doing
