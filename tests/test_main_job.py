"""The main job with the real parts: vLLM, DeepSpeed and Ray on this machine's CPU, killed once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.ledger import Ledger
from pipeline.records import Rollout, Selected
from pipeline.stages import read_rows
from pipeline.state import State
from pipeline.store import Store, open_store

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 1500


def start(out: Path) -> subprocess.Popen[bytes]:
    """`make run` on the tiny recipe, with what it says in a file."""
    command = [sys.executable, "-m", "jobs.evolve", "--config", "tiny", "--set", f"run.out={out}"]
    with (out / "log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env={**os.environ, "MSTAR_TEST": str(out)},
            start_new_session=True,
        )


def events(store: Store) -> list[dict[str, Any]]:
    return list(Ledger(store, "tiny").replay())


def descendants(out: Path) -> list[psutil.Process]:
    """Every process that inherited the mark of a run, however it was orphaned."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MSTAR_TEST") == str(out) and process.status() != "zombie":
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes], out: Path) -> None:
    end = time.monotonic() + LIMIT_S
    while not true():
        assert process.poll() is None, (out / "log").read_text()[-4000:]
        assert time.monotonic() < end, (out / "log").read_text()[-4000:]
        time.sleep(0.2)


def kill_at(out: Path, stage: str, stop: signal.Signals) -> int:
    """Start the run, end it once a shard of `stage` was accepted; its exit status."""
    store = open_store(out / "tiny" / "store")
    process = start(out)
    wait_until(
        lambda: any(
            event["type"] == "shard_accepted" and event["purpose"] == stage
            for event in events(store)
        ),
        process,
        out,
    )
    if stop == signal.SIGINT:
        os.killpg(process.pid, stop)  # as a terminal does
    else:
        process.send_signal(stop)
    status = process.wait(120)
    end = time.monotonic() + 60
    while descendants(out) and time.monotonic() < end:
        time.sleep(0.5)
    left = [one.cmdline() for one in descendants(out)]
    assert not left, left
    return status


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A run that was interrupted in its warm-up, killed in its first iteration, and started again.

    Gives its folder and the number of events at the kill.
    """
    out = tmp_path_factory.mktemp("tiny")
    assert kill_at(out, "warmup", signal.SIGINT) == 130, (out / "log").read_text()[-4000:]
    assert "the same command goes on" in (out / "log").read_text()
    assert kill_at(out, "evolve/0", signal.SIGKILL) == -signal.SIGKILL
    before = len(events(open_store(out / "tiny" / "store")))
    assert start(out).wait(LIMIT_S) == 0, (out / "log").read_text()[-4000:]
    yield out, before
    for one in descendants(out):
        one.kill()


@pytest.mark.timeout(2 * LIMIT_S)
def test_a_killed_run_goes_on_and_finishes(run: tuple[Path, int]) -> None:
    out, before = run
    happened = events(open_store(out / "tiny" / "store"))
    assert happened[before]["type"] == "driver_started"
    accepted = [(e["purpose"], e["index"]) for e in happened if e["type"] == "shard_accepted"]
    assert len(accepted) == len(set(accepted))
    closed = [event["iteration"] for event in happened if event["type"] == "iteration_closed"]
    assert closed == [0, 1]
    assert happened[-1]["type"] == "finished"
    assert descendants(out) == []


def test_the_summary_and_tensorboard_are_there(run: tuple[Path, int]) -> None:
    out, _ = run
    found = json.loads((out / "tiny" / "summary.json").read_text())
    for name in ("base", "warmup", "control", "final"):
        for split in ("test", "ood"):
            assert {"greedy", "n", "ci95"} <= set(found[name][split])
            assert found[name][split]["n"] == 24
    assert len(found["iterations"]) == 2
    assert found["versions"]["torch"]
    assert any((out / "tiny" / "tensorboard").iterdir())


def test_engine_and_learner_agree_about_every_first_batch(run: tuple[Path, int]) -> None:
    happened = events(open_store(run[0] / "tiny" / "store"))
    jobs = [e for e in happened if e["type"] == "job_done" and e["job"].startswith("evolve/")]
    assert jobs
    assert all(job["logprob_deviation"] < 1e-4 for job in jobs)


def test_what_was_selected_is_what_was_sampled(run: tuple[Path, int]) -> None:
    store = open_store(run[0] / "tiny" / "store")
    selected = [
        row
        for event in events(store)
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


def test_replay_gives_one_optimizer_over_all_iterations(run: tuple[Path, int]) -> None:
    state = State.replay(events(open_store(run[0] / "tiny" / "store")))
    steps = [state.jobs[f"evolve/{t}"].steps for t in range(2)]
    checkpoint = state.jobs["evolve/1"].checkpoint or state.jobs["evolve/0"].checkpoint
    if checkpoint is not None:
        assert checkpoint.step == sum(steps[: 2 if checkpoint.job == "evolve/1" else 1])


def test_a_finished_run_started_again_does_nothing(run: tuple[Path, int]) -> None:
    out, _ = run
    before = len(events(open_store(out / "tiny" / "store")))
    assert start(out).wait(LIMIT_S) == 0
    assert len(events(open_store(out / "tiny" / "store"))) == before
    assert "is finished" in (out / "log").read_text()
