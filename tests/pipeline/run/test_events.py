"""Events: JSON and back to the byte, one for every type, and what a newer ledger may not do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.errors import LedgerNewer
from pipeline.hashing import canonical_json
from pipeline.run.events.wire import EVENTS, from_wire, replay
from pipeline.run.ledger import Ledger, seal
from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store

CHECKPOINT = {"path": "checkpoints/a/b", "sha256": "b", "job": "evolve/0", "cursor": 3, "step": 3,
              "nats": 1.5, "tokens": 9, "logprob_deviation": None}  # fmt: skip
COVERAGE = dict.fromkeys(
    ("queries", "queries_correct", "queries_kept", "samples", "correct", "wrong", "unparsed",
     "timeout", "leaning", "cut", "candidates", "kept", "tokens", "tokens_kept"), 2
)  # fmt: skip
POLICY = {"version": "policy-1", "path": "policies/a/b"}
SHARD = {"purpose": "evolve/0", "index": 1}
BAD = [{"query": "q", "reason": "r"}]
EVALUATION = {"version": "policy-1", "split": "test", "mode": "greedy"}

WIRES: list[dict[str, Any]] = [
    {"type": "run_created", "config": {"run": {"seed": 0}}, "config_hash": "c", "data": {"a": 1},
     "queries": "shards/queries/k/s.parquet", "versions": {"pipeline": "1"}},
    {"type": "driver_started", "versions": {"pipeline": "1"}, "changes": ["a.b: 1 -> 2"]},
    {"type": "policy_published", "name": "base", **POLICY},
    {"type": "pool_resized", "pool": "engine", "before": 0, "after": 8, "reason": "8 shards to do"},
    {"type": "shard_accepted", **SHARD, "key": "k", "rollout": "r", "rows": 4, "tokens": 9,
     "seconds": 0.5, "engine": "e", "adopted": False, "bad": BAD},
    {"type": "shard_graded", **SHARD, "key": "k", "rollout": "r", "grades": "g", "selected": None,
     "coverage": COVERAGE, "seconds": 0.5, "bad": BAD, "choice": {"kept": {"tokens": 1.5}}},
    {"type": "shard_scored", **SHARD, "key": "k", "rollout": "r", "scores": "s", "selected": "t",
     "coverage": COVERAGE, "excluded": {"long": 1}, "choice": {}, "seconds": 0.5},
    {"type": "object_lost", **SHARD, "path": "r", "reason": "gone"},
    {"type": "sampling_closed", "purpose": "warmup", "coverage": COVERAGE, "rows": 4, "tokens": 9},
    {"type": "labels_made", "path": "l", "trained": 2, "held_out": 1, "counts": {"mixed": 3},
     "cost": {"completions": 4}},
    {"type": "labels_lost", "path": "l", "reason": "gone"},
    {"type": "prm_judged", **POLICY, "used": True, "reasons": ["n"], "card": {"auc": [0.5, None]}},
    {"type": "evaluated", **EVALUATION, "purpose": "evaluate/policy-1/test/greedy",
     "grades": ["g"], "result": {"greedy": 0.5, "ci95": [0.1, 0.9]}},
    {"type": "evaluation_lost", **EVALUATION, "purpose": "evaluate/policy-1/test/greedy",
     "path": "g", "reason": "gone"},
    {"type": "temperature_chosen", "iteration": 2, "version": "policy-1", "temperature": 0.7,
     "today": 1.0, "mode": "sound", "figure": "reward_pass_2", "ranked_by": "prm", "samples": 8,
     "curve": {"0.7": {"value": 0.5, "n": 9, "ci95": [0.1, 0.9]}},
     "gains": {"0.7": {"gain": 0.1, "bound": None}}},
    {"type": "dynamics_evaluated", "iteration": 2, "version": "policy-1", "ranked_by": None,
     "rows": {"0.7": {"n": 9}}},
    {"type": "checkpoint_saved", "job": "evolve/0", "key": "k", "checkpoint": CHECKPOINT},
    {"type": "checkpoint_lost", "job": "evolve/0", "path": "checkpoints/a/b", "reason": "gone"},
    {"type": "job_done", "job": "evolve/0", "key": "k", "checkpoint": CHECKPOINT, "policy": POLICY,
     "steps": 3, "rows": 4, "tokens": 9, "loss": 0.5, "seconds": 1.5, "logprob_deviation": 0.01},
    {"type": "job_skipped", "job": "evolve/0", "policy": POLICY},
    {"type": "warmup_chosen", "name": "warmup/1"},
    {"type": "iteration_closed", "iteration": 0, "row": {"iteration": 0, "learn_s": 1.0}},
    {"type": "retired", "paths": ["checkpoints/a/b"]},
    {"type": "finished", "final": "evolve/0", "control": None},
]  # fmt: skip


@pytest.mark.parametrize("wire", WIRES, ids=[wire["type"] for wire in WIRES])
def test_an_event_is_its_json_to_the_byte(wire: dict[str, Any]) -> None:
    stamped = wire | {"stage": "prepare", "at": 1.25}
    event = from_wire(stamped)
    assert canonical_json(event.to_wire()) == canonical_json(stamped)
    assert from_wire(json.loads(canonical_json(event.to_wire()))) == event


def test_every_type_of_event_is_here() -> None:
    assert {wire["type"] for wire in WIRES} == {kind.type for kind in EVENTS}
    assert len(EVENTS) == len({kind.type for kind in EVENTS})


def test_what_a_later_event_gives_up() -> None:
    dropped = {wire["type"]: from_wire(wire).drops() for wire in WIRES}
    assert {name: set(paths) for name, paths in dropped.items() if paths} == {
        "object_lost": {"r"},
        "labels_lost": {"l"},
        "evaluation_lost": {"g"},
        "checkpoint_lost": {"checkpoints/a/b"},
        "retired": {"checkpoints/a/b"},
    }


def test_what_depends_on_the_machine_is_not_compared() -> None:
    for wire in WIRES:
        compared = set(from_wire(wire).compared())
        assert not {"at", "stage", "seconds", "engine", "adopted", "key", "versions"} & set(
            compared
        )
    (closed,) = (wire for wire in WIRES if wire["type"] == "iteration_closed")
    assert from_wire(closed).compared()["row"] == {"iteration": 0}
    (done,) = (wire for wire in WIRES if wire["type"] == "job_done")
    assert from_wire(done).compared()["checkpoint"] == {"sha256": "b", "cursor": 3, "step": 3}


def test_a_choice_that_older_ledgers_do_not_have() -> None:
    (graded,) = (wire for wire in WIRES if wire["type"] == "shard_graded")
    accepted = next(wire for wire in WIRES if wire["type"] == "shard_accepted")
    older = {name: value for name, value in graded.items() if name != "choice"}
    assert replay([accepted, older]).shards["evolve/0"][1].choice == {}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"type": "tomorrow"}, "an event of type 'tomorrow', unknown to this version"),
        ({"mood": "good"}, "a warmup_chosen event that this version cannot read .mood: "),
        ({"name": 7}, "a warmup_chosen event that this version cannot read .name: "),
    ],
)
def test_an_event_of_a_newer_version_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(LedgerNewer, match=why):
        replay([{"type": "warmup_chosen", "name": "warmup/0"} | change])


def test_a_newer_format_is_refused_and_nothing_is_written() -> None:
    store = Store(MemoryBackend(), say=lambda line: None)
    Ledger(store, "run").append([{"type": "warmup_chosen", "name": "a"}])
    newer = {"format": 2, "head": "0" * 64, "n": 0, "run": "run", "state": {}}
    store.put("runs/run/snapshots/0000000000.json", seal(newer))
    before = {path: store.get(path) for path in store.list()}
    with pytest.raises(LedgerNewer, match="has format 2, and this program reads 1"):
        Ledger(store, "run").resume()
    assert {path: store.get(path) for path in store.list()} == before
