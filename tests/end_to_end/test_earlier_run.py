"""A run that an earlier program began with real engines goes on with today's to its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actors.generation.engine_settings import engine_settings
from jobs.runtime.world import running
from pipeline.audit.run import audit
from pipeline.config.fields import to_dict
from pipeline.config.load import config_from_dict
from pipeline.datasets.dataset import Dataset
from pipeline.driver.context import RunContext
from pipeline.driver.driver import drive
from pipeline.grading.grade import GRADER_VERSION
from pipeline.run.events.wire import from_wire, replay
from pipeline.run.ledger import Ledger
from pipeline.run.queries import spec_of
from pipeline.storage.local import LocalBackend
from pipeline.storage.trees import fetch_tree
from tests.support.earlier_runs import store_of
from tests.support.scripted import Quiet


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_run_goes_on_with_real_engines(tmp_path: Path) -> None:
    """With the earlier grader in its spec: another one is refused, which a fast test shows.

    What today's grader graded in its place, and nothing else, is named by the audit.
    """
    store = store_of("real", LocalBackend(tmp_path / "store"))
    before = list(Ledger(store, "old").replay())
    began = spec_of(store, from_wire(before[0]))
    fetch_tree(store, replay(before).policies["base"].path, tmp_path / "policy")
    plain = to_dict(began.config)
    plain["run"] |= {"out": str(tmp_path)}
    plain["policy"]["path"] = plain["warmup"]["checkpoint"] = str(tmp_path / "policy")
    spec = replace(began, config=config_from_dict(plain))
    if engine_settings(spec.config).identity() != spec.engine:
        pytest.skip(f"its samples are those of {spec.engine}, which is not installed")
    dataset = Dataset([query for part in spec.splits.values() for query in part], {})
    with running(spec, store, dataset, lambda line: None) as workers:
        state = drive(RunContext(spec, store, Ledger(store, "old"), workers, Quiet()))
    events = list(Ledger(store, "old").replay())
    assert events[: len(before)] == before
    assert state.finished is not None
    assert state.jobs["evolve/0"].steps > 0
    graded = {event["grades"] for event in events[len(before) :] if event["type"] == "shard_graded"}
    problems = audit(store, "old").problems
    assert {problem.path for problem in problems} == (
        graded if spec.grader != GRADER_VERSION else set()
    )
    assert all(problem.what.startswith("another grader made it") for problem in problems)
