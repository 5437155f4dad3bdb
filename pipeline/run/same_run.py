"""Whether a run is started again with the data it began with, and in words what differs.

Another question, answer or split would make another run of it: such data are refused, finished or
not. The queries of the beginning are in the store, so a person reads which rows it is about.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.config.load import stored_config
from pipeline.config.resume import check_resume
from pipeline.errors import BadConfig
from pipeline.hashing import canonical_json
from pipeline.query import Query
from pipeline.run.events.wire import from_wire
from pipeline.run.ledger import Ledger
from pipeline.run.queries import spec_of
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.storage.store import Store

_SHOWN = 5
"""Rows of one kind that are named; the others are counted."""

Splits = Mapping[str, Sequence[Query]]


def check_same_data(store: Store, spec: RunSpec, state: State) -> None:
    """Refuse data that are not those which the run began with.

    Raises:
        BadConfig: naming the rows that differ.
        StoreError: the store cannot be read, or has lost the queries of the beginning.
    """
    if state.config is None or state.data["splits"] == _plain(spec)["splits"]:
        return
    run = spec.config.run.name
    began = spec_of(store, from_wire(next(Ledger(store, run).replay())))
    shown = "\n  ".join(data_changes(began.splits, spec.splits))
    raise BadConfig(
        f"run {run!r} began with other data:\n  {shown}\n"
        "set them back, or give the new run a name of its own (--set run.name=...)"
    )


def changes_since(spec: RunSpec, state: State) -> list[str]:
    """What else than the data is not as it was when the run began: settings that do not change its
    meaning, the engine, the grader.

    Raises:
        BadConfig: a setting was changed that does.
    """
    if state.config is None:
        return []
    began = stored_config(state.config)
    changes = [str(change) for change in check_resume(began, spec.config)]
    here = _plain(spec)
    for part in ("engine", "grader"):
        if here[part] != state.data[part]:
            changes.append(f"{part}: {_brief(state.data[part])} -> {_brief(here[part])}")
    return changes


def check_same_means(spec: RunSpec, state: State) -> None:
    """Refuse to sample or grade by other means than those which the run began with.

    Raises:
        BadConfig: naming the engine or the grader, then and now.
    """
    if state.config is None:
        return
    here = _plain(spec)
    for part in ("engine", "grader"):
        then = state.data[part]
        if here[part] != then:
            raise BadConfig(
                f"run {spec.config.run.name!r}: the {part} is not the one it was started with: "
                f"{_brief(then)} then, {_brief(here[part])} now; go on with the version that "
                "started it, or give the new run a name of its own (--set run.name=...)"
            )


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return str(value)


def _plain(spec: RunSpec) -> dict[str, Any]:
    """The fingerprint as a ledger gives it back."""
    plain: dict[str, Any] = json.loads(canonical_json(spec.fingerprint))
    return plain


def data_changes(then: Splits, now: Splits) -> list[str]:
    """Which queries were removed, added or changed, split by split."""
    lines: list[str] = []
    for split in dict.fromkeys((*then, *now)):
        old = {query.query_id: query for query in then.get(split, ())}
        new = {query.query_id: query for query in now.get(split, ())}
        lines += _names(split, "removed", old.keys() - new.keys())
        lines += _names(split, "new", new.keys() - old.keys())
        both = [(old[name], new[name]) for name in old if name in new]
        asked = {a.query_id for a, b in both if a.content_hash != b.content_hash}
        lines += _names(split, "with another question, choices or images", asked)
        lines += _answers(split, [pair for pair in both if pair[0].query_id not in asked])
    return lines


def _names(split: str, what: str, names: Iterable[str]) -> Iterator[str]:
    ordered = sorted(names)
    if ordered:
        more = f", and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
        yield f"{split}: {len(ordered)} {what}: {', '.join(ordered[:_SHOWN])}{more}"


def _answers(split: str, both: Sequence[tuple[Query, Query]]) -> Iterator[str]:
    changed = [(a, b) for a, b in both if _answer(a) != _answer(b)]
    for a, b in changed[:_SHOWN]:
        yield f"{split}: the answer of {a.query_id} was {_answer(a)} and is {_answer(b)}"
    if len(changed) > _SHOWN:
        yield f"{split}: {len(changed) - _SHOWN} more have other answers"


def _answer(query: Query) -> str:
    return "none" if query.answer is None else f"{query.answer} ({query.answer_type})"
