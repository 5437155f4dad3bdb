"""When `make chaos` says that all of it holds: whatever is missing is seen."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from jobs.chaos.__main__ import (
    FEWEST,
    STATE_MACHINE,
    holds,
    killed_until_done,
    state_machine,
    together,
)
from jobs.chaos.plan import Kill, plan
from jobs.chaos.watch import Record, Watch


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


class Beds:
    """Runs of which each meets so many of the kills that are left."""

    def __init__(self, meets: list[int]) -> None:
        self.meets = meets
        self.asked: list[tuple[str, int]] = []

    def killed(self, name: str, kills: list[Kill], seed: int) -> tuple[Any, list[str], int]:
        self.asked.append((name, len(kills)))
        met = self.meets[len(self.asked) - 1]
        watch = Watch(kills[met:], name, lambda kill: None)
        watch.records = [Record(one.stage, one.victim, "", 1, 1, 0.0) for one in kills[:met]]
        return watch, [], met

    def log(self, name: str) -> str:
        return "the store does not answer" if name == "killed-0" else ""


@pytest.mark.parametrize(
    ("meets", "asked", "missed"),
    [
        ([4], [4], 0),
        ([3, 1], [4, 1], 0),
        ([1, 2, 0], [4, 3, 1], 1),
    ],
)
def test_what_a_run_is_too_short_for_another_one_meets(
    meets: list[int], asked: list[int], missed: int
) -> None:
    shown = {"identical": True, "difference": None, "audit_clean": True, "audited_objects": 5}
    bed: Any = Beds(meets)
    rounds, left = killed_until_done(
        bed, plan(0, 4), 0, compare=lambda bed, name: shown | {"accepted_shards": 2}
    )
    assert bed.asked == [(f"killed-{i}", n) for i, n in enumerate(asked)]
    assert len(left) == missed
    summed = together(rounds)
    assert len(summed["kills"]) == sum(meets) == summed["restarts"]
    assert {one["run"] for one in summed["kills"]} <= {name for name, _ in bed.asked}
    assert summed["runs"] == len(meets)
    assert summed["identical"]
    assert summed["store_said_away"]
    assert summed["audited_objects"] == 5 * len(meets)


@pytest.mark.parametrize("key", ["identical", "audit_clean"])
def test_one_run_that_differs_is_enough(key: str) -> None:
    good: dict[str, Any] = {
        "identical": True, "difference": None, "audit_clean": True, "audited_objects": 1,
        "accepted_shards": 1, "kills": [], "generated_twice": [], "survivors": [], "restarts": 0,
        "store_said_away": False,
    }  # fmt: skip
    summed = together([good, good | {key: False, "difference": "here", "survivors": ["ray"]}])
    assert summed[key] is False
    assert summed["differences"] == ["here"]
    assert summed["survivors"] == ["ray"]


@pytest.mark.parametrize(("examples", "held"), [(7, True), (8, False)])
def test_the_state_machine_is_the_command_that_make_gives(
    examples: int, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(STATE_MACHINE, raising=False)
    assert state_machine(examples) is None
    seven = "import os, sys; sys.exit(os.environ['MSTAR_EXAMPLES'] != '7')"
    monkeypatch.setenv(STATE_MACHINE, f'{sys.executable} -c "{seven}"')
    assert state_machine(examples) is held
