"""The main job with the real parts: vLLM, DeepSpeed and Ray on this machine's CPU, killed once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate

import pytest

from pipeline.records import Rollout, Selected
from pipeline.storage.artifacts import read_rows
from tests.support.main_job import LIMIT_S, MainJob, accepted, assert_nothing_twice

QUESTIONS = 12
SMALL = (
    "data.train_queries=64", "warmup.queries=48", "evaluate.samples=0",
    f"data.validation_queries={QUESTIONS}", f"data.test_queries={QUESTIONS}",
)  # fmt: skip


@pytest.fixture(scope="module")
def before() -> dict[str, int]:
    """How many events there were at the kill, once there was one."""
    return {}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, before: dict[str, int]) -> Iterator[MainJob]:
    """A run that was killed in its first iteration, and finished."""
    job = MainJob(tmp_path_factory.mktemp("tiny"), SMALL)
    try:
        job.end_at(lambda events: accepted(events, "evolve/0"), "killed")
        before["events"] = len(job.events)
        job.finish()
        yield job
    finally:
        job.kill()


@pytest.mark.timeout(2 * LIMIT_S)
def test_a_killed_run_goes_on_and_finishes(job: MainJob, before: dict[str, int]) -> None:
    happened = job.events
    assert happened[before["events"]]["type"] == "driver_started"
    assert_nothing_twice(happened)


def test_the_summary_and_tensorboard_are_there(job: MainJob) -> None:
    found = json.loads((job.out / "tiny" / "summary.json").read_text())
    for name in ("base", "warmup", "control", "final"):
        for split in ("test", "ood"):
            assert {"greedy", "n", "ci95"} <= set(found[name][split])
            assert found[name][split]["n"] == QUESTIONS
    assert len(found["iterations"]) == 2
    assert found["versions"]["torch"]
    assert any((job.out / "tiny" / "tensorboard").iterdir())


def test_engine_and_learner_agree_about_every_first_batch(job: MainJob) -> None:
    happened = job.events
    jobs = [e for e in happened if e["type"] == "job_done" and e["job"].startswith("evolve/")]
    assert jobs
    assert all(job["logprob_deviation"] < 1e-4 for job in jobs)


def test_what_was_selected_is_what_was_sampled(job: MainJob) -> None:
    store = job.store
    selected = [
        row
        for event in job.events
        if event["type"] == "shard_graded" and event["selected"]
        for row in read_rows(store, event["selected"], Selected)
    ]
    assert selected
    sampled = {}
    for path in {row.rollout_shard for row in selected}:
        for row in read_rows(store, path, Rollout):
            sampled[path, row.query, row.sample_index] = row
    for row in selected:
        origin = sampled[row.rollout_shard, row.query, row.sample_index]
        assert origin.token_ids == row.token_ids
        assert origin.finish == "stop"


@pytest.mark.parametrize("chain", ["evolve", "control"])
def test_one_optimizer_goes_through_all_iterations(job: MainJob, chain: str) -> None:
    done = {event["job"]: event for event in job.events if event["type"] == "job_done"}
    jobs = [done[f"{chain}/{t}"] for t in range(2)]
    assert all(event["steps"] > 0 for event in jobs)
    # steps of the optimizer since it was made, and of the jobs so far
    made = [event["checkpoint"]["step"] for event in jobs]
    assert made == list(accumulate(event["steps"] for event in jobs))


def test_a_finished_run_started_again_does_nothing(job: MainJob) -> None:
    before = len(job.events)
    job.finish()
    assert len(job.events) == before
    assert "is finished" in job.said
