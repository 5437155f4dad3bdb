"""A learning job's key: of what is trained, and of nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

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


NEW = replace(
    JOB,
    start=replace(START, path=f"checkpoints/learner/{'0' * 64}"),
    policy=PolicyRef("policy-0", f"policies/model/{'1' * 64}"),
    data=(f"shards/select/select-a/{'2' * 64}.parquet",),
    rule=1,
    settings=(("batch_size", 8), ("precision", "float32")),
)


def test_by_the_rule_of_contents_a_key_holds_no_path_and_no_run() -> None:
    """The golden key of rule 1: stores hold it."""
    assert NEW.key == "learn-e44ad27093b0515f"
    assert replace(NEW, start=replace(START, path="checkpoints/a-run/x")).key == NEW.key
    other_path = (f"shards/select/select-b/{'2' * 64}.parquet",)
    assert replace(NEW, data=other_path).key == NEW.key
    changed: dict[str, Any] = {
        "name": "evolve/2",
        "start": replace(START, sha256="f" * 64),
        "policy": PolicyRef("policy-0", f"policies/model/{'f' * 64}"),
        "data": (f"shards/select/select-a/{'f' * 64}.parquet",),
        "seed": 1,
        "epochs": 3,
        "learning_rate": 2e-3,
        "settings": (("batch_size", 16), ("precision", "float32")),
    }
    keys = {replace(NEW, **{name: value}).key for name, value in changed.items()}
    assert len(keys | {NEW.key}) == len(changed) + 1
