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

from pipeline.config.load import config_from_dict
from pipeline.config.resume import diff
from pipeline.run.references import GAVE_UP

Event = Mapping[str, Any]

_ALWAYS_DIFFERENT = {"at", "stage", "type", "seconds", "engine", "adopted", "versions", "key"}

_NOT_COMPARED = {*GAVE_UP, "checkpoint_saved", "driver_started"}

# What comes once more, and the same, after something of it was lost.
_MADE_AGAIN = {"labels_made", "evaluated", "finished"}

_OF_SHARDS = {"shard_accepted", "shard_graded", "shard_scored"}


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


def facts(events: Iterable[Event]) -> Iterator[Fact]:
    """What a run did, in plan order. A purpose's shards come when it is closed, and once more when
    something of them was lost and made again otherwise."""
    shards: dict[str, dict[int, dict[str, Any]]] = {}
    told: dict[tuple[str, int], dict[str, Any]] = {}
    again: dict[str, Fact] = {}

    def tell(purpose: str) -> Iterator[Fact]:
        for index, values in sorted(shards.get(purpose, {}).items()):
            if told.get((purpose, index)) != values:
                told[purpose, index] = dict(values)
                yield Fact(f"shard {index} of {purpose}", dict(values))

    for event in events:
        kind = event["type"]
        if kind in _OF_SHARDS:
            one = shards.setdefault(event["purpose"], {}).setdefault(event["index"], {})
            one |= _values(event)
        elif kind == "sampling_closed":
            yield from tell(event["purpose"])
        elif kind not in _NOT_COMPARED:
            fact = Fact(_name(event), _values(event))
            if kind in _MADE_AGAIN:
                if again.get(fact.name) == fact:
                    continue
                again[fact.name] = fact
            yield fact
    for purpose in shards:  # those that are still open
        yield from tell(purpose)


def _name(event: Event) -> str:
    about = [event[key] for key in ("name", "job", "iteration", "purpose") if key in event]
    return " ".join([event["type"], *map(str, about)])


def _values(event: Event) -> dict[str, Any]:
    values = {key: value for key, value in event.items() if key not in _ALWAYS_DIFFERENT}
    if "checkpoint" in values:
        # its path holds the run's name
        kept = ("sha256", "cursor", "step")
        values["checkpoint"] = {key: values["checkpoint"][key] for key in kept}
    if event["type"] == "run_created":
        values = {"data": values["data"], "queries": values["queries"]}
    # how near engine and learner are says something of the machine, nothing of the run
    values.pop("logprob_deviation", None)
    if event["type"] == "iteration_closed":
        row = event["row"].items()
        left_out = ("_s", "logprob_deviation")
        values["row"] = {key: value for key, value in row if not key.endswith(left_out)}
    return values


def settings_changed(a: Event, b: Event) -> list[str]:
    """What differs between the settings that two runs were created with, and matters."""
    old, new = (config_from_dict(one["config"], where="the run's ledger") for one in (a, b))
    return [str(change) for change in diff(old, new) if change.kind != "free"]


def first_difference(a: Iterable[Event], b: Iterable[Event]) -> Difference | None:
    """Where two runs part; None when one is what the other is, whole."""
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
