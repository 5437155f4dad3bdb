"""Whose turn it is to have room: roles that cannot be there together take turns.

What always holds: a role that has waited for room longer than `patience_s` gets what the others
hold as soon as they have nothing under way, and no other asks for room until it has its own; of
several it is the one that has waited longest. Nobody is interrupted, so every turn ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Role(Protocol):
    """A pool, or the learner. waited_s: how long it has waited for room, 0 when it does not.
    yielding: another role's turn."""

    name: str
    yielding: bool

    @property
    def waited_s(self) -> float: ...


class Turns:
    """The roles of a run that share a cluster."""

    def __init__(
        self, roles: Sequence[Role], patience_s: float, say: Callable[[str], None]
    ) -> None:
        self._roles = roles
        self._patience_s = patience_s
        self._say = say
        self._holder: Role | None = None

    def tend(self) -> None:
        """Give the turn to who has waited too long, and take it back once it has room."""
        holder = self._holder
        if holder is not None and not holder.waited_s:
            holder = None
        if holder is None:
            late = [role for role in self._roles if role.waited_s > self._patience_s]
            holder = max(late, key=lambda role: role.waited_s, default=None)
        if holder is not None and holder is not self._holder:
            self._say(
                f"{holder.name}: it has waited for room for {holder.waited_s:.0f} s, so the other "
                "roles give back theirs as soon as they have nothing under way (cluster.turn_s)"
            )
        self._holder = holder
        for role in self._roles:
            role.yielding = holder is not None and role is not holder
