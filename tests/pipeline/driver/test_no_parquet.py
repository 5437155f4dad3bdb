"""The driver's process reads and writes no parquet once it has started: its workers do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.schema import Config
from pipeline.run.events.event import Event
from pipeline.storage.store import Store
from tests.support.chaos_world import EXPLORING
from tests.support.driving import Bench, result
from tests.support.scripted import Crash, make_config, prm_config
from tests.support.scripted_store import ScriptedBackend


def refusing(bench: Bench) -> Store:
    """Another driver, whose own store refuses parquet after its first event: that store."""
    started: list[Event] = []
    bench.watch.react = started.append

    def refuse(operation: str, path: str, number: int) -> None:
        if started and path.endswith(".parquet"):
            raise AssertionError(f"the driver's process asks to {operation} {path}")

    store = Store(ScriptedBackend(bench.backend, refuse), sleep=bench.clock.sleep)
    bench.context(own_store=store)
    return store


@pytest.mark.parametrize(
    "config",
    [make_config(), prm_config(), prm_config(scoring="all"), make_config(**EXPLORING)],
    ids=["binary", "prm", "all", "exploring"],
)
def test_a_run_goes_through_without_the_driver_touching_a_shard(
    tmp_path: Path, config: Config
) -> None:
    plain = Bench(tmp_path / "plain", config)
    plain.run()
    bench = Bench(tmp_path / "run", config)
    refusing(bench)
    bench.backend.at = plain.backend.writes // 2
    with pytest.raises(Crash):
        bench.drive()
    store = refusing(bench)  # taken up in the middle, it does not either
    bench.drive()
    assert result(bench) == result(plain)
    path = next(iter(bench.store.list("shards/rollout")))
    with pytest.raises(AssertionError, match="asks to read"):
        store.get(path)
    with pytest.raises(AssertionError, match="asks to stat"):
        store.put(f"{path}.parquet", b"")
