"""A heartbeat that an actor's work updates and its pool reads."""

from __future__ import annotations


class Beat:
    """A count that grows while work moves, and what is being done: for whoever watches."""

    def __init__(self) -> None:
        self.count = 0
        self.what = ""

    def __call__(self, what: str = "") -> None:
        self.count += 1
        self.what = what or self.what
