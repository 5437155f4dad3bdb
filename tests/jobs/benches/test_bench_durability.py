"""The rows about durability can be measured, each at a size at which its figures mean nothing."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from jobs.benches import BENCHES
from jobs.benches.durability import long_ledger
from jobs.benches.record import Options, Result
from jobs.benches.simulated import replay
from jobs.runtime.recipes import load_recipe
from pipeline.run.ledger import Ledger
from pipeline.storage.store import open_store


def options(folder: Path) -> Options:
    return Options(load_recipe("tiny"), folder, rounds=1, small=True, say=lambda text: None)


@pytest.mark.parametrize("name", ["shards", "ledger", "replay", "replay-memory", "driver-memory"])
def test_a_row_can_be_measured(name: str, tmp_path: Path) -> None:
    module, _, function = BENCHES[name].partition(":")
    result: Result = getattr(import_module(module), function)(replace(options(tmp_path), row=name))
    assert result.name == name
    assert all(value > 0 for values in result.values.values() for value in values)
    assert (result.bar is None) is (name == "ledger")


def test_the_long_ledger_is_a_ledger(tmp_path: Path) -> None:
    entries = long_ledger(tmp_path / "store", 1000)
    store = open_store(tmp_path / "store")
    events = list(Ledger(store, "bench").replay())
    assert len(Ledger(store, "bench").numbers()) == entries
    assert sum(event["type"] == "shard_accepted" for event in events) == 1000
    assert replay(store)["seconds"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_restart_can_be_measured(tmp_path: Path) -> None:
    from jobs.benches.restart import restart

    result = restart(options(tmp_path))
    assert len(result.values["restart"]) == 1
    assert result.values["restart"][0] > 0
