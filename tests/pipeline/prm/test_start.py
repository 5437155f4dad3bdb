"""What a process reward model is trained from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.audit.run import audit
from pipeline.config.fields import hashed_section
from pipeline.driver.driver import drive
from pipeline.refs import CheckpointRef
from pipeline.simulation.fleet import decode
from pipeline.training.job import LearnJob
from tests.support.driving import Bench
from tests.support.scripted import prm_config


@pytest.mark.parametrize("start", ["warmup", "base"])
def test_a_prm_is_trained_from_the_policy_that_prm_start_names(tmp_path: Path, start: str) -> None:
    bench, jobs = Bench(tmp_path, prm_config(start=start)), {}
    context = bench.context()
    learner, submit = bench.learner, bench.learner.submit

    def seen(job: LearnJob, resume: CheckpointRef | None) -> None:
        jobs[job.name] = job
        submit(job, resume)

    class Seeing:
        submit = staticmethod(seen)
        poll = staticmethod(learner.poll)

    context.workers = replace(context.workers, learner=Seeing())
    state = drive(context)
    assert state.policies["base"] != state.policies["warmup"]
    assert jobs["prm/0"].policy == state.policies[start]
    assert audit(bench.store, "scripted", lambda _: decode).problems == []


def test_older_runs_keep_their_hash() -> None:
    assert "start" not in hashed_section(prm_config(start="warmup"), "prm")
    assert hashed_section(prm_config(start="base"), "prm")["start"] == "base"
