"""A run as its store has it: what whoever looks at runs reads, and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.errors import BadConfig
from pipeline.refs import PolicyRef, ShardSet
from pipeline.run.events.event import Event
from pipeline.run.events.sampling import OfShard
from pipeline.run.events.wire import from_wire
from pipeline.run.ledger import Ledger
from pipeline.run.queries import spec_of
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.storage.store import Store


@dataclass(frozen=True)
class StoredRun:
    """A run of a store; read from there when it is asked for, and once.

    Raises:
        BadConfig: the store holds no such run (`spec`).
        StoreError: an entry of its ledger is corrupt or gone.
        LedgerNewer: a newer program wrote it.
    """

    store: Store
    name: str

    @cached_property
    def wires(self) -> list[dict[str, Any]]:
        """Its events as the ledger has them, oldest first."""
        return list(Ledger(self.store, self.name).replay())

    @cached_property
    def events(self) -> list[Event]:
        """Its events, oldest first."""
        return [from_wire(wire) for wire in self.wires]

    @cached_property
    def state(self) -> State:
        """What it has done."""
        state = State()
        for event in self.events:
            state.apply(event)
        return state

    @cached_property
    def spec(self) -> RunSpec:
        """What it is."""
        if not self.events:
            raise BadConfig(f"{self.store.url} holds no run {self.name!r}")
        return spec_of(self.store, self.events[0])

    @cached_property
    def shard_facts(self) -> dict[tuple[ShardSet, int], dict[str, Any]]:
        """All that was told of each shard, the last word on each fact."""
        facts: dict[tuple[ShardSet, int], dict[str, Any]] = {}
        for event in self.events:
            if isinstance(event, OfShard):
                facts.setdefault((event.purpose, event.index), {}).update(vars(event))
        return facts

    def entry_of(self, policy: PolicyRef) -> str | None:
        """The first entry of its ledger that names a policy or process reward model; as a path of
        the store."""
        ledger = Ledger(self.store, self.name)
        for entry in ledger.entries():
            for wire in entry.events:
                made = wire.get("policy")
                named = made.get("path") if isinstance(made, dict) else wire.get("path")
                if named == policy.path:
                    return ledger.path(entry.n)
        return None
