"""The main job ended in every stage, in every way, and started again: `make test ARGS="-m slow"`.

Takes about five minutes for each way on two idle cores, so it is not part of the default suite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.main_job import LIMIT_S, PRM, Event, MainJob, Way, accepted, assert_nothing_twice

Reached = Callable[[list[Event]], bool]
# A checkpoint after every step, so that training is ended in the middle; shards of few queries, so
# that evaluations are.
IN_THE_MIDDLE = ("learn.checkpoint_steps=1", "evaluate.shard_queries=8")


def _training(events: list[Event], job: str) -> bool:
    """A checkpoint inside this job was recorded."""
    return any(e["type"] == "checkpoint_saved" and e["job"] == job for e in events)


def _evaluating(events: list[Event], split: str, after: str) -> bool:
    """A shard of an evaluation on this split was accepted after an event of this type or job."""
    names = [e["job"] if e["type"] == "job_done" else e["type"] for e in events]
    later = events[names.index(after) :] if after in names else []
    return any(e["type"] == "shard_accepted" and f"/{split}/" in e["purpose"] for e in later)


def _scoring(events: list[Event], purpose: str) -> bool:
    """A shard of this purpose was scored."""
    return any(e["type"] == "shard_scored" and e["purpose"] == purpose for e in events)


STAGES: dict[str, Reached] = {
    "base evaluation": lambda events: _evaluating(events, "test", "run_created"),
    "warm-up sampling": lambda events: accepted(events, "warmup"),
    "warm-up training": lambda events: _training(events, "warmup/0"),
    "sampling": lambda events: accepted(events, "evolve/0"),
    "training": lambda events: _training(events, "evolve/0"),
    "validation": lambda events: _evaluating(events, "validation", "evolve/0"),
    # The last that every run has: final policies that were measured before are not measured again.
    "control": lambda events: _training(events, "control/0"),
}
# What only a run that builds a process reward model goes through.
PRM_STAGES: dict[str, Reached] = {
    "prm/generate": lambda events: accepted(events, "prm/rollouts"),
    "prm/annotate": lambda events: accepted(events, "prm/values/0"),
    "prm/learn": lambda events: _training(events, "prm/0"),
    "prm/judge": lambda events: _scoring(events, "prm/rollouts"),
    "scoring": lambda events: _scoring(events, "evolve/0"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Nothing of a run in it is left, however the test ends."""
    yield tmp_path
    MainJob(tmp_path).kill()


def _end_in(job: MainJob, stages: Mapping[str, Reached], way: Way) -> None:
    """End it in each of these, by the same command again and again, then let it finish."""
    for stage, reached in stages.items():
        job.end_at(reached, way)
        print(f"{way} in {stage}: nothing is left, {len(job.events)} events")
    job.finish()


@pytest.mark.slow
@pytest.mark.timeout(8 * LIMIT_S)
@pytest.mark.parametrize("way", ["interrupted", "killed", "make killed"])
def test_a_run_ended_in_every_stage_goes_on_and_finishes(folder: Path, way: Way) -> None:
    job = MainJob(folder, IN_THE_MIDDLE)
    _end_in(job, STAGES, way)
    assert_nothing_twice(job.events)


@pytest.mark.slow
@pytest.mark.timeout(6 * LIMIT_S)
@pytest.mark.parametrize("way", ["interrupted", "killed"])
def test_a_run_ended_in_every_stage_of_its_prm_goes_on_and_finishes(folder: Path, way: Way) -> None:
    # More epochs, so that there is a middle of its training; evaluations are ended in elsewhere.
    few = ("data.validation_queries=8", "data.test_queries=8", "evaluate.samples=2")
    job = MainJob(folder, [*IN_THE_MIDDLE, *PRM, *few, "prm.epochs=4"])
    _end_in(job, PRM_STAGES, way)
    assert_nothing_twice(job.events, iterations=1)
    types = [event["type"] for event in job.events]
    assert types.count("labels_made") == types.count("prm_judged") == 1
    scored = [(e["purpose"], e["index"]) for e in job.events if e["type"] == "shard_scored"]
    assert len(scored) == len(set(scored))
