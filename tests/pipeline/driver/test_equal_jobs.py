"""Two runs in one store: what one has trained the other adopts, and neither deletes the other's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.garbage import garbage, needed
from pipeline.audit.run import audit
from pipeline.config.schema import Config
from pipeline.refs import CheckpointRef
from pipeline.run.events.event import Event
from pipeline.run.events.training import JobDone
from pipeline.simulation.small_trees import put_small_tree
from pipeline.storage.models import policy_at
from pipeline.storage.store import Store, open_store
from pipeline.storage.trees import check_tree, manifest_path
from pipeline.training.finished import JOBS, NEEDED, find, mark, record, release
from pipeline.training.job import LearnDone, LearnJob
from tests.support.driving import Bench, result
from tests.support.scripted import Crash, make_config

OTHER = {"run": {"name": "other"}}


def second_run(first: Bench, folder: Path, config: Config) -> Bench:
    """Another run with the same store."""
    second = Bench(folder, config)
    second.backend = first.backend
    return second


def interrupted(folder: Path, job: str) -> Bench:
    """A run whose driver died once this job was recorded."""
    bench = Bench(folder)

    def react(event: Event) -> None:
        if isinstance(event, JobDone) and event.job == job:
            raise Crash

    bench.watch.react = react
    with pytest.raises(Crash):
        bench.run()
    bench.watch.react = lambda event: None
    return bench


def done(bench: Bench) -> dict[str, Any]:
    return {event["job"]: event for event in bench.of_type("job_done")}


def test_an_equal_run_adopts_what_is_trained_and_both_end_the_same(tmp_path: Path) -> None:
    alone = Bench(tmp_path / "alone")
    alone.run()
    first = interrupted(tmp_path / "first", "evolve/1")
    second = second_run(first, tmp_path / "second", make_config(**OTHER))
    second.run()
    adopted = {name for name, event in done(second).items() if event.get("adopted")}
    # The checkpoints of these two are in use; what was retired before is trained again.
    assert {"evolve/0", "evolve/1"} <= adopted
    trained = {name for name, _ in second.learner.submitted}
    assert trained == done(second).keys() - adopted
    assert "evolve/1: trained already, by another run of this store: adopted" in second.watch.said
    first.run()
    assert {"evolve/0", "evolve/1"}.isdisjoint(name for name, _ in first.learner.submitted)
    assert result(first) == result(second) == result(alone)
    for name, event in done(second).items():
        assert event["key"] == done(first)[name]["key"] == done(alone)[name]["key"]
        assert event["checkpoint"] == done(alone)[name]["checkpoint"]
    for run in ("scripted", "other"):
        assert audit(first.store, run).problems == []


def test_a_run_that_keeps_its_checkpoints_leaves_nothing_to_train_for_its_equal(
    tmp_path: Path,
) -> None:
    keeping = {"learn": {"batch_size": 4, "window": 64, "keep_checkpoints": True}}
    first = Bench(tmp_path / "first", make_config(**keeping))
    first.run()
    ends = [manifest_path(event["checkpoint"]["path"]) for event in done(first).values()]
    stored = first.store.list("checkpoints")
    assert sorted(path for path in stored if path.endswith(".manifest.json")) == sorted(set(ends))
    second = second_run(first, tmp_path / "second", make_config(**OTHER))
    second.run()
    assert second.learner.submitted == []
    assert all(event["adopted"] for event in done(second).values())
    assert result(first) == result(second)
    assert audit(first.store, "scripted").problems == audit(first.store, "other").problems == []


def test_garbage_is_what_neither_run_needs(tmp_path: Path) -> None:
    first = interrupted(tmp_path / "first", "evolve/1")
    second_run(first, tmp_path / "second", make_config(**OTHER)).run()
    first.run()
    store = first.store
    keep = needed(store, ["scripted", "other"])
    stray = f"{NEEDED}/{'0' * 64}/scripted"
    store.put(stray, b"{}")
    entries = store.entries()
    found = [one.path for one in garbage(entries, keep, now_unix_s=float("inf"), min_age_s=0.0)]
    assert stray in found
    assert not [path for path in found if path.startswith(("checkpoints/", "policies/"))]
    assert [path for path in store.list(JOBS) if path not in found]


@pytest.mark.parametrize(
    "changes",
    [{"learn": {"weight_decay": 0.1}}, {"run": {"name": "other", "seed": 1}}],
)
def test_another_training_is_another_job(tmp_path: Path, changes: dict[str, Any]) -> None:
    first = interrupted(tmp_path / "first", "evolve/0")
    settings = {**OTHER, **changes}
    settings["learn"] = {"batch_size": 4, "window": 64, **changes.get("learn", {})}
    second = second_run(first, tmp_path / "second", make_config(**settings))
    second.run()
    assert not [event for event in done(second).values() if event.get("adopted")]
    keys = {event["key"] for event in done(first).values()}
    assert keys.isdisjoint(event["key"] for event in done(second).values())


# --- the store -----------------------------------------------------------------------------------


@pytest.fixture
def store() -> Store:
    return open_store("memory://")


def finished(store: Store, trained: str) -> LearnDone:
    path = put_small_tree(store, "checkpoints", "state.json", {"trained": trained})
    policy = policy_at(put_small_tree(store, "policies", "model.json", {"trained": trained}))
    checkpoint = CheckpointRef(path, path[-64:], "evolve/0", 3, 3)
    return LearnDone("evolve/0", checkpoint, policy, 3, 12, 120, 0.5, 9.0)


def job_of(given: LearnDone) -> LearnJob:
    return LearnJob("evolve/0", None, given.policy, (), 0, 1, None, 1e-3, rule=1)


def test_a_job_is_found_while_its_checkpoint_is_there_and_bits_are_asked_for(store: Store) -> None:
    given = finished(store, "a")
    job = job_of(given)
    assert find(store, "b", job, None) is None
    mark(store, "a", given.checkpoint.path, job.key)
    record(store, job.key, given, {"ranks": 2})
    record(store, job.key, replace(given, seconds=1.0), {"ranks": 2})
    assert len(store.list(JOBS)) == 1
    assert find(store, "b", job, {"ranks": 4}) is None
    assert find(store, "b", job, {"ranks": 2}) == replace(given, seconds=0.0)
    release(store, "a", given.checkpoint.path)
    assert check_tree(store, given.checkpoint.path) == []
    assert find(store, "c", job, None) is None
    release(store, "b", given.checkpoint.path)
    assert store.list("checkpoints") == store.list(NEEDED) == []
    release(store, "b", given.checkpoint.path)


def test_a_job_whose_checkpoint_or_policy_is_gone_is_not_found(store: Store) -> None:
    given = finished(store, "a")
    job = job_of(given)
    record(store, job.key, given, {})
    store.delete(manifest_path(given.policy.path))
    assert find(store, "b", job, None) is None
    assert store.list(NEEDED) == []


def test_a_checkpoint_of_an_older_program_is_deleted_as_ever(store: Store) -> None:
    old = finished(store, "a").checkpoint.path
    release(store, "a", old)
    assert store.list("checkpoints") == []
