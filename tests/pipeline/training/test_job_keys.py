"""A learning job's key: of what is trained, and of nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

from pipeline.refs import CheckpointRef, PolicyRef
from pipeline.run.state import JobState, State
from pipeline.training.job import LearnJob

START = CheckpointRef("checkpoints/r/0", "0" * 64, "evolve/0", 3, 3, 1.5, 20)
JOB = LearnJob("evolve/1", START, PolicyRef("policy-0", "policies/m/0"), (), 0, 2, None, 1e-3)


def test_a_job_of_a_checkpoint_has_the_key_that_it_always_had() -> None:
    """Ledgers hold keys: another one would train again what was trained."""
    assert JOB.key == "learn-42f54d49234eb962"


def test_what_the_guard_measured_is_no_part_of_what_is_trained() -> None:
    """Nor does a snapshot that does not know of it read otherwise."""
    assert replace(JOB, start=replace(START, logprob_deviation=0.01)).key == JOB.key
    state = State(jobs={"evolve/0": JobState("k", START)})
    held = json.loads(json.dumps(state.to_dict()))
    del held["jobs"]["evolve/0"]["checkpoint"]["logprob_deviation"]
    assert State.from_dict(held) == state
