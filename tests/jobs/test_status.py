"""What `status` says of runs that work, stopped, died, finished, and of places that hold none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.run import evolve
from jobs.runtime.prepare import out_folder, store_url
from jobs.status import status_lines
from pipeline.config.schema import Config
from pipeline.driver.driver import drive
from pipeline.run.lease import Lease, Process, this_process
from pipeline.run.ledger import FORMAT, Ledger, seal
from pipeline.storage.store import Store, open_store
from tests.support.driving import Bench
from tests.support.jobs import SCRIPTED, job_config, mstar, run_command
from tests.support.scripted import Crash

RUN = "scripted"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = job_config(tmp_path_factory.mktemp("job"))
    evolve(config, parts=SCRIPTED)
    return config


def objects(store: Store) -> dict[str, bytes]:
    return {path: store.get(path) for path in store.list()}


def test_a_finished_run(finished: Config) -> None:
    folder, store = out_folder(finished), open_store(store_url(finished))
    before = objects(store)
    done = mstar("status", folder)
    assert done.exit_code == 0, done.output
    first, last = done.output.splitlines()[:2]
    assert first == f"run {finished.run.name} in {store.url}: finished"
    assert last.startswith("last event: finished (final/evaluate), ")
    assert f"{finished.evolve.iterations} of {finished.evolve.iterations} iterations" in done.output
    assert "evolve/0  " in done.output
    assert "final" in done.output
    again = mstar("status", "--store", store.url, "--run", finished.run.name)
    assert again.output.splitlines()[2:] == done.output.splitlines()[2:]
    assert objects(store) == before


def lives(folder: Path, writes: int, process: Process | None = None) -> tuple[Bench, Lease]:
    """A driver that holds its lease and dies at its write of this number."""
    bench = Bench(folder)
    lease = Lease(bench.store, bench.config.run.name, process=process)
    lease.acquire()
    context = bench.context()
    bench.backend.at = bench.backend.writes + writes
    with pytest.raises(Crash):
        drive(context)
    bench.backend.at = -1
    return bench, lease


def test_a_run_that_is_at_work_says_what_it_waits_for(tmp_path: Path) -> None:
    bench, lease = lives(tmp_path, 40)
    lines = status_lines(bench.store, bench.config.run.name, 100, now_unix_s=bench.clock.now)
    assert f": running: process {this_process().pid} on " in lines[0]
    (now,) = [line for line in lines if line.startswith("now: ")]
    assert "/generate: " in now or "/evaluate: " in now or "/learn: " in now
    lease.release()
    lines = status_lines(bench.store, bench.config.run.name, 100)
    assert ": stopped " in lines[0]
    assert any(line == now.replace("now", "next", 1) for line in lines)


def test_a_dead_driver_is_called_dead(tmp_path: Path) -> None:
    me = this_process()
    bench, _ = lives(tmp_path, 40, Process(me.host, me.pid, me.machine, "another birth"))
    (line, *_) = status_lines(bench.store, bench.config.run.name, 100)
    assert line.endswith(
        f"process {me.pid} on {me.host} is dead; the command that started it goes on"
    )


def test_places_without_a_run_are_named(finished: Config, tmp_path: Path) -> None:
    out = out_folder(finished)
    done = mstar("status", tmp_path / "nowhere")
    assert (done.exit_code, "nowhere is no store: it holds no run" in done.output) == (2, True)
    done = mstar("status", out.parent)
    assert done.exit_code == 2
    assert f"These folders of runs are in it:\n  {out}" in done.output
    done = mstar("status", out, "--run", "another")
    assert done.exit_code == 2
    assert f"holds no run 'another'. It holds {finished.run.name}" in done.output


def later_version(store: Store, run: str) -> None:
    """A ledger entry in a format that this program does not know."""
    ledger = Ledger(store, run)
    number = ledger.numbers()[-1] + 1
    content: dict[str, Any] = {"events": [], "format": FORMAT + 1, "n": number, "run": run}
    store.put(ledger.path(number), seal(content))


def test_a_ledger_of_a_newer_version_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    config = job_config(tmp_path)
    evolve(config, parts=SCRIPTED)
    store = open_store(store_url(config))
    later_version(store, config.run.name)
    before = objects(store)
    for done in (mstar("status", store.url), run_command(config, tmp_path)):
        assert done.exit_code in (1, 2)
        assert f"has format {FORMAT + 1}" in done.output, done.output
        assert "Traceback" not in done.output
    assert objects(store) == before
