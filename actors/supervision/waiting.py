"""How often a wait is told: after some seconds, and then each time it has become twice as long."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 10.0
LONGEST_S = 600.0


@dataclass
class WaitingNote:
    """When a wait that goes on is to be said again."""

    waited_s: float = 0.0
    _due_s: float = FIRST_S

    def passed(self, seconds: float) -> bool:
        """More of the wait is over; whether it is time to say so."""
        self.waited_s += seconds
        if self.waited_s < self._due_s:
            return False
        self._due_s = self.waited_s + min(self.waited_s, LONGEST_S)
        return True

    def over(self) -> None:
        """Nothing is waited for."""
        self.waited_s, self._due_s = 0.0, FIRST_S
