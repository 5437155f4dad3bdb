"""The event: what every entry of a ledger is a list of.

What always holds: an event is a frozen value; `fold` is the only thing that it does, and it depends
on nothing but the event and the state; `to_wire` gives the JSON that the ledger stores, and
`pipeline.run.events.wire.from_wire` gives the event back.

A new type is one class here (with its wire name, its fold, what `audit --diff` compares and which
paths it gives up) and one word in `pipeline.run.events.wire.EVENTS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, PlainValidator, TypeAdapter

from pipeline.refs import ShardSet
from pipeline.run.state import State

Purpose = Annotated[ShardSet, PlainValidator(lambda name: ShardSet(str(name)))]
"""Which set of shards an event is about."""


@dataclass(frozen=True, kw_only=True)
class Event(ABC):
    """One thing that happened in a run.

    type: its name in the ledger. COMPARED: the fields that two equal runs share; none: it says
    nothing of what a run means (when, where, what was lost and made again). LATER: fields that
    earlier ledgers do not have; empty ones are not written. restarts_clock: a driver's first event,
    from whose start `at` is counted.
    stage: what the driver was at; at: seconds since that driver started. Both are stamped when the
    event is committed.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    type: ClassVar[str]
    LATER: ClassVar[tuple[str, ...]] = ()
    COMPARED: ClassVar[tuple[str, ...]] = ()
    restarts_clock: ClassVar[bool] = False

    stage: str = ""
    at: float = 0.0

    @abstractmethod
    def fold(self, state: State) -> None:
        """Change the state by what happened."""

    def compared(self) -> dict[str, Any]:
        """What two runs of one meaning share of this event, as JSON."""
        wire = self.to_wire()
        return {name: wire.get(name) for name in self.COMPARED}

    def drops(self) -> frozenset[str]:
        """Paths that the run needs no longer after this event."""
        return frozenset()

    def to_wire(self) -> dict[str, Any]:
        """The plain form that a ledger stores."""
        plain = form(type(self)).dump_python(self)
        kept = {name: value for name, value in plain.items() if value or name not in self.LATER}
        return {"type": self.type, **kept}


@dataclass(frozen=True, kw_only=True)
class LossEvent(Event):
    """An object that the run needed is corrupt or gone; it is made again, perhaps otherwise."""

    path: str
    reason: str

    def drops(self) -> frozenset[str]:
        return frozenset((self.path,))


@cache
def form(kind: type[Event]) -> TypeAdapter[Any]:
    """Reads and writes the fields of one type of event."""
    return TypeAdapter(kind)
