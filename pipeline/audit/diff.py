"""Two runs side by side: the first thing that they did differently, and in what.

Compared is what a run *means*: the settings that matter, and then shard by shard and job by job, in
plan order, what was sampled, graded, selected and trained. When things happened, on which engine,
in which order they came in, how often a driver was started and what was lost and made again is not
compared, nor is the run's own name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from pipeline.config.load import stored_config
from pipeline.config.resume import diff
from pipeline.run.events.event import Event
from pipeline.run.events.sampling import OfShard, SamplingClosed
from pipeline.run.events.wire import from_wire


@dataclass(frozen=True)
class Fact:
    """One thing that a run did: what, and with which result."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """Where two runs part. number: how many facts they share before it."""

    number: int
    name: str
    details: tuple[str, ...]

    def __str__(self) -> str:
        shared = f"after {self.number} equal steps the runs part at {self.name}:"
        return "\n  ".join([shared, *self.details])


def facts(wires: Iterable[Mapping[str, Any]]) -> Iterator[Fact]:
    """What a run did, in plan order: what its events have to be compared.

    The shards of a set come when it is closed, and once more when something of them was lost and
    made again otherwise. Whatever comes once more, and the same, is one fact.
    """
    shards: dict[str, dict[int, dict[str, Any]]] = {}
    last: dict[str, Fact] = {}

    def news(fact: Fact) -> Iterator[Fact]:
        if last.get(fact.name) != fact:
            last[fact.name] = fact
            yield fact

    def shards_of(purpose: str) -> Iterator[Fact]:
        for index, values in sorted(shards.get(purpose, {}).items()):
            yield from news(Fact(f"shard {index} of {purpose}", dict(values)))

    for event in map(from_wire, wires):
        compared = event.compared()
        if isinstance(event, OfShard):
            of_set = shards.setdefault(event.purpose, {})
            of_set[event.index] = of_set.get(event.index, {}) | compared
        elif isinstance(event, SamplingClosed):
            yield from shards_of(event.purpose)
        elif compared:
            yield from news(Fact(_name(event), compared))
    for purpose in shards:  # those that are still open
        yield from shards_of(purpose)


def _name(event: Event) -> str:
    about = [getattr(event, name, None) for name in ("name", "job", "iteration", "purpose")]
    return " ".join([event.type, *(str(part) for part in about if part is not None)])


def settings_changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What differs between the settings that two runs were created with, and matters."""
    old, new = (stored_config(wire["config"]) for wire in (a, b))
    return [str(change) for change in diff(old, new) if change.kind != "free"]


def first_difference(
    a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]]
) -> Difference | None:
    """Where two runs part; None when they did the same."""
    for number, (left, right) in enumerate(zip_longest(facts(a), facts(b))):
        if left is None or right is None:
            name = (left or right).name
            which = "first" if left is None else "second"
            return Difference(number, name, (f"the {which} run ends before it",))
        if left.name != right.name:
            return Difference(
                number, left.name, (f"the first run did {left.name}, the second {right.name}",)
            )
        details = tuple(_details("", left.values, right.values))
        if details:
            return Difference(number, left.name, details)
    return None


def _details(where: str, a: Any, b: Any) -> Iterator[str]:
    """The leaves that differ, each by name."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted(a.keys() | b.keys()):
            yield from _details(f"{where}.{key}".lstrip("."), a.get(key), b.get(key))
    elif a != b:
        yield f"{where}: {a!r} and {b!r}"
