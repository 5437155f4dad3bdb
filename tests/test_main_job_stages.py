"""The main job ended in every stage, in every way, and started again: `make test ARGS="-m slow"`.

Takes about five minutes for each way on two idle cores, so it is not part of the default suite.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.main_job import LIMIT_S, Event, MainJob, Way, accepted, assert_nothing_twice


def _training(events: list[Event], job: str) -> bool:
    """A checkpoint inside this job was recorded."""
    return any(e["type"] == "checkpoint_saved" and e["job"] == job for e in events)


def _evaluating(events: list[Event], split: str, after: str) -> bool:
    """A shard of an evaluation on this split was accepted after an event of this type or job."""
    names = [e["job"] if e["type"] == "job_done" else e["type"] for e in events]
    later = events[names.index(after) :] if after in names else []
    return any(e["type"] == "shard_accepted" and f"/{split}/" in e["purpose"] for e in later)


STAGES: dict[str, Callable[[list[Event]], bool]] = {
    "base evaluation": lambda events: _evaluating(events, "test", "run_created"),
    "warm-up sampling": lambda events: accepted(events, "warmup"),
    "warm-up training": lambda events: _training(events, "warmup/0"),
    "sampling": lambda events: accepted(events, "evolve/0"),
    "training": lambda events: _training(events, "evolve/0"),
    "validation": lambda events: _evaluating(events, "validation", "evolve/0"),
    # The last that every run has: final policies that were measured before are not measured again.
    "control": lambda events: _training(events, "control/0"),
}


@pytest.mark.slow
@pytest.mark.timeout(8 * LIMIT_S)
@pytest.mark.parametrize("way", ["interrupted", "killed", "make killed"])
def test_a_run_ended_in_every_stage_goes_on_and_finishes(tmp_path: Path, way: Way) -> None:
    # A checkpoint after every step, so that training is ended in the middle; shards of few
    # queries, so that evaluations are.
    job = MainJob(tmp_path, ["learn.checkpoint_steps=1", "evaluate.shard_queries=8"])
    for stage, reached in STAGES.items():
        job.end_at(reached, way)
        print(f"{way} in {stage}: nothing is left, {len(job.events)} events")
    job.finish()
    assert_nothing_twice(job.events)
