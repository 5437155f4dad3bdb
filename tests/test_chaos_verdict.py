"""When `make chaos` says that all of it holds: whatever is missing is seen."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.chaos import FEWEST, holds
from jobs.chaos_plan import plan


def record(victim: str = "driver", stage: str = "evolve/learn", **more: Any) -> dict[str, Any]:
    return {
        "stage": stage,
        "victim": victim,
        "window": "",
        "pid": 7,
        "position": 3,
        "at_s": 1.0,
        "next_event_s": 2.0,
        "next_shard_s": 3.0,
        **more,
    }


def found(**changes: Any) -> dict[str, Any]:
    """What a whole plan that held has found."""
    kills = [record(), record("store"), *(record(stage="evaluate") for _ in range(FEWEST - 2))]
    return {
        "identical": True,
        "audit_clean": True,
        "controls_differ": True,
        "state_machine": True,
        "missed": [],
        "generated_twice": [],
        "survivors": [],
        "store_said_away": True,
        "fewest_kills": FEWEST,
        "kills": kills,
        **changes,
    }


def test_a_whole_plan_has_enough_kills() -> None:
    assert len(plan(0)) >= FEWEST
    assert holds(found())
    assert not holds(found(kills=found()["kills"][1:]))
    assert holds(found(kills=[record()], fewest_kills=1))


@pytest.mark.parametrize("key", ["identical", "audit_clean", "controls_differ", "state_machine"])
def test_what_must_be_true_is(key: str) -> None:
    assert not holds(found(**{key: False}))


def test_what_was_left_out_does_not_count() -> None:
    left_out = found(controls_differ=None)
    del left_out["state_machine"]
    assert holds(left_out)


@pytest.mark.parametrize("key", ["missed", "generated_twice", "survivors"])
def test_what_must_not_be_is_not(key: str) -> None:
    assert not holds(found(**{key: ["something"]}))


def test_a_store_that_went_away_was_missed() -> None:
    assert not holds(found(store_said_away=False))
    without = [record() for _ in range(FEWEST)]
    assert holds(found(store_said_away=False, kills=without))


@pytest.mark.parametrize(
    ("kill", "fine"),
    [
        (record(next_event_s=0.0), True),
        (record(next_event_s=None), False),
        (record(next_event_s=None, next_shard_s=None), False),
        (record(next_shard_s=None), False),
        (record(stage="warmup/generate", next_shard_s=None), False),
        (record(stage="control/learn", next_shard_s=None), True),
        (record(stage="evaluate", next_shard_s=None), True),
        (record(stage="evaluate", next_event_s=None), False),
    ],
)
def test_a_run_goes_on_after_every_kill(kill: dict[str, Any], fine: bool) -> None:
    assert holds(found(kills=[*found()["kills"], kill])) is fine
