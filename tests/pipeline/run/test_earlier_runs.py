"""Runs begun by an earlier program (commit be77fe3): replayed, audited, and gone on with.

`earlier/*.tar.xz` are stores as that program left them when it was interrupted: `scripted` and
`scripted-prm` over scripted workers (with what an uninterrupted run of that program gave, in
`whole.json`), `real` over real engines and the smallest policy that they take.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.audit.run import audit
from pipeline.config.fields import BEFORE
from pipeline.errors import BadConfig
from pipeline.grading.grade import GRADER_VERSION
from pipeline.hashing import canonical_json
from pipeline.run.events.wire import from_wire, replay
from pipeline.run.ledger import Ledger
from pipeline.run.queries import spec_of
from pipeline.run.same_run import check_same_means
from pipeline.run.state import State
from pipeline.simulation.fleet import decode
from pipeline.simulation.grader import GRADER
from tests.support.driving import Bench, result
from tests.support.earlier_runs import RUNS, store_of, unpacked
from tests.support.scripted import make_config, prm_config


def bench_of(name: str, folder: Path) -> Bench:
    """The store of an earlier run, and today's drivers over it, by the decisions of then."""
    config = make_config() if name == "scripted" else prm_config(use_anyway=False)
    run = config.run.model_copy(update={"rules": BEFORE["run.rules"]})
    select = config.select.model_copy(update={"otherwise": BEFORE["select.otherwise"]})
    bench = Bench(folder, config.model_copy(update={"run": run, "select": select}))
    store_of(name, bench.backend)
    return bench


@pytest.mark.parametrize("name", RUNS)
def test_its_ledger_replays_event_for_event(name: str) -> None:
    store = store_of(name)
    wires = list(Ledger(store, RUNS[name]).replay())
    for wire in wires:
        assert canonical_json(from_wire(wire).to_wire()) == canonical_json(wire)
    snapshot, events = Ledger(store, RUNS[name]).resume()
    resumed = replay(events, State() if snapshot is None else State.from_dict(snapshot))
    assert resumed == replay(wires)


@pytest.mark.parametrize("name", RUNS)
def test_its_audit_is_clean(name: str) -> None:
    report = audit(store_of(name), RUNS[name], lambda policy: decode, grader="another")
    assert report.problems == []
    assert report.events > 15
    (note,) = report.notes
    assert "and this program grades by another" in note


def test_an_older_grader_is_told_from_damage() -> None:
    store = store_of("scripted")
    path = next(path for path in store.list("shards/grade"))
    store.replace(path, store.get(path)[:-1])
    report = audit(store, "scripted", grader="another")
    assert [problem.path for problem in report.problems] == [path]
    assert len(report.notes) == 1
    assert audit(store_of("scripted"), "scripted", grader=GRADER).notes == []


@pytest.mark.parametrize("name", ["scripted", "scripted-prm"])
def test_it_goes_on_and_ends_as_the_earlier_program_would_have(name: str, tmp_path: Path) -> None:
    bench = bench_of(name, tmp_path)
    before = list(bench.events)
    bench.run()
    assert bench.events[: len(before)] == before
    assert json.loads(json.dumps(result(bench))) == json.loads(unpacked(name)["whole.json"])
    assert audit(bench.store, RUNS[name], lambda policy: decode).clean


def test_a_real_run_is_refused_by_a_program_with_another_grader_before_anything_starts() -> None:
    store = store_of("real")
    wires = list(Ledger(store, "old").replay())
    began, state = spec_of(store, from_wire(wires[0])), replay(wires)
    check_same_means(began, state)
    with pytest.raises(BadConfig, match="the grader is not the one it was started with: 1-math"):
        check_same_means(replace(began, grader=GRADER_VERSION), state)


def test_today_it_would_be_another_run_and_is_refused(tmp_path: Path) -> None:
    """Its decisions are of version 1: a driver by those of today would go on as another run."""
    bench = Bench(tmp_path)
    store_of("scripted", bench.backend)
    with pytest.raises(BadConfig, match=r"run.rules: 1 -> 2"):
        bench.run()


def test_with_another_grader_it_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    bench = bench_of("scripted", tmp_path)
    bench.program = replace(bench.program, grader="scripted-2")
    before = {path: bench.store.get(path) for path in bench.store.list()}
    with pytest.raises(
        BadConfig,
        match="the grader is not the one it was started with: scripted-1 then, scripted-2",
    ):
        bench.run()
    assert {path: bench.store.get(path) for path in bench.store.list()} == before
