"""The pool on a real Ray, with actors that die, hang and raise where the test says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from actors.supervision.pool import Pool, PoolBroken, PoolSettings, Result
from jobs.runtime.ray_cluster import init_ray
from pipeline.errors import UserError
from tests.support.fakes import ScriptedActor, ScriptedWork
from tests.support.processes import processes

# Longer than what it waits for, on a busy machine.
pytestmark = pytest.mark.timeout(600)
# A second without progress is a hang only where a test makes one: this machine may be busy.
QUICK = PoolSettings(cpus=0.5, hang_s=60.0, heartbeat_s=0.2, attempts=3, backoff_s=0.1)
IMPATIENT = replace(QUICK, hang_s=1.0)
# For a clock that jumps: of a poll that comes late, twice `heartbeat_s` at most count as silence.
SLOW_BEAT = replace(QUICK, hang_s=600.0, heartbeat_s=150.0)

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    options = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False}
    init_ray({**options, "namespace": "pool"})
    yield
    ray.shutdown()


class Clock:
    """The time, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class Harness:
    """A pool of scripted actors, everything it said, and its results by id."""

    def __init__(self, folder: Path, settings: PoolSettings, start: str = "value") -> None:
        (folder / "log").touch()
        self.folder = folder
        self.said: list[str] = []
        self.clock = Clock()
        arguments = [str(folder), start]
        self.pool = Pool(ScriptedActor, arguments, settings, say=self.said.append, clock=self.clock)
        self.ended: list[Result] = []

    def submit(self, *works: ScriptedWork) -> None:
        for work in works:
            self.pool.submit(work)

    def poll_until(self, condition: Callable[[], bool], pause_s: float = 0.05) -> None:
        end = time.monotonic() + 280.0
        while not condition():
            assert time.monotonic() < end, f"it did not come true; said: {self.said}"
            self.ended += self.pool.poll(pause_s)

    def run(self, *works: ScriptedWork) -> dict[str, Result]:
        """Everything that has ended, once everything has."""
        self.submit(*works)
        self.poll_until(lambda: not self.pool.outstanding, 1.0)
        return {result.key: result for result in self.ended}

    @property
    def losses(self) -> list[str]:
        """What was said, but for an engine that waited for room: Ray may be slow to make it."""
        return [line for line in self.said if " wait for room, " not in line]

    def note(self, line: str) -> None:
        """For an actor that works until it is in the log."""
        with (self.folder / "log").open("a") as log:
            log.write(f"0 {line}\n")

    def log(self, word: str) -> list[str]:
        lines = (self.folder / "log").read_text().splitlines()
        return [line.split()[-1] for line in lines if f" {word} " in line]

    def starts(self) -> int:
        lines = (self.folder / "log").read_text().splitlines()
        return sum(line.split()[1:] == ["start"] for line in lines)


@pytest.fixture
def harness(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Harness]:
    made = Harness(tmp_path, getattr(request, "param", QUICK))
    yield made
    made.pool.close()


def test_work_is_done_in_the_order_it_was_submitted(harness: Harness) -> None:
    works = [ScriptedWork(f"s{number}") for number in range(12)]
    results = harness.run(*works)
    assert harness.log("run") == list(results) == [work.key for work in works]
    assert all(result.value and result.attempts == 1 for result in results.values())
    assert not harness.losses


def test_submitting_what_is_under_way_does_nothing(harness: Harness) -> None:
    harness.run(ScriptedWork("a"), ScriptedWork("a"))
    assert harness.log("run") == ["a"]
    harness.run(ScriptedWork("a"))
    assert harness.log("run") == ["a", "a"]


@pytest.mark.parametrize("how", ["exit", "kill", "raise", "hang", "stop"])
def test_a_lost_engine_is_replaced_and_its_work_comes_first(harness: Harness, how: str) -> None:
    harness.submit(ScriptedWork("first", do=how), ScriptedWork("second"), ScriptedWork("third"))
    if how in ("hang", "stop"):
        # Patience ends only with the engine that does hang: any other may be slow.
        harness.poll_until(lambda: harness.log("fail") == ["first"])
        assert harness.starts() == 1
        harness.pool.settings = IMPATIENT
        harness.poll_until(lambda: bool(harness.losses))
        harness.pool.settings = QUICK
    results = harness.run()
    assert harness.log("run") == ["first", "first", "second", "third"]
    assert results["first"].failure is None
    assert results["first"].attempts == 2
    assert harness.starts() == 2
    (said,) = harness.losses
    assert "first" in said


@pytest.mark.parametrize("harness", [replace(QUICK, inflight=2)], indirect=True)
def test_what_kills_engines_takes_nothing_with_it(harness: Harness) -> None:
    """Both were on the engine when it died; the retries are alone, so only the poison fails."""
    poison = ScriptedWork("poison", do="exit", times=9, until=("run neighbour", 1))
    # Under way when the poison first works, and done only once it has killed again, alone.
    neighbour = ScriptedWork("neighbour", until=("fail poison", 2))
    results = harness.run(poison, neighbour, ScriptedWork("next"))
    assert results["neighbour"].failure is None
    assert results["next"].failure is None
    failure = results["poison"].failure
    assert failure is not None
    assert failure.kind == "infrastructure"
    assert results["poison"].attempts == 3
    # The first died under both: what it proves of either is nothing.
    assert (results["poison"].killed, results["neighbour"].killed) == (2, 0)
    assert harness.log("run").count("poison") == 3


@pytest.mark.parametrize("harness", [replace(QUICK, size=2, cpus=0.5)], indirect=True)
def test_two_engines_work_at_the_same_time(harness: Harness) -> None:
    """Each waits until the other has begun: one engine alone would never end either."""
    results = harness.run(
        ScriptedWork("a", until=("run b", 1)), ScriptedWork("b", until=("run a", 1))
    )
    assert len({result.value for result in results.values()}) == 2
    assert all(result.attempts == 1 for result in results.values())


def test_a_failure_that_was_told_apart_inside_the_actor_ends_at_once(harness: Harness) -> None:
    results = harness.run(ScriptedWork("bad", do="user"), ScriptedWork("good"))
    failure = results["bad"].failure
    assert failure is not None
    assert (failure.kind, failure.reason) == ("user", "mend this")
    assert results["good"].failure is None
    assert harness.starts() == 1


def test_an_infrastructure_failure_is_tried_again_on_the_same_engine(harness: Harness) -> None:
    results = harness.run(ScriptedWork("a", do="infrastructure", times=2))
    assert results["a"].failure is None
    assert results["a"].attempts == 3
    assert harness.starts() == 1
    assert len(harness.losses) == 2
    assert all("the store does not answer" in line for line in harness.losses)


@pytest.mark.parametrize("harness", [SLOW_BEAT], indirect=True)
def test_slow_work_that_moves_is_not_hung(harness: Harness) -> None:
    """Four times a third of `hang_s` passes, each time with progress in between."""
    harness.submit(ScriptedWork("slow", until=("run enough", 1)))
    harness.poll_until(lambda: harness.log("run") == ["slow"])
    (member,) = harness.pool._members
    for _ in range(4):
        before = member.count
        harness.clock.ahead_s += SLOW_BEAT.hang_s / 3
        harness.poll_until(lambda before=before: member.count != before)  # type: ignore[misc]
    harness.note("run enough")
    assert harness.run()["slow"].attempts == 1
    assert not harness.losses


def test_a_driver_that_slept_does_not_take_its_fleet_for_hung(harness: Harness) -> None:
    harness.submit(ScriptedWork("long", until=("run morning", 1)))
    harness.poll_until(lambda: harness.log("run") == ["long"])
    harness.clock.ahead_s += 10 * QUICK.hang_s
    harness.pool.poll(0.5)
    harness.note("run morning")
    assert harness.run()["long"].attempts == 1
    assert not harness.losses


def test_an_engine_that_never_starts_stops_the_pool(tmp_path: Path) -> None:
    harness = Harness(tmp_path, QUICK, start="raise")
    with pytest.raises(PoolBroken, match="the engine is broken"):
        harness.run(ScriptedWork("a"))
    assert harness.starts() == QUICK.attempts
    harness.pool.close()


def test_a_start_that_a_person_has_to_mend_says_so(tmp_path: Path) -> None:
    harness = Harness(tmp_path, QUICK, start="user")
    with pytest.raises(UserError, match="mend this"):
        harness.run(ScriptedWork("a"))
    harness.pool.close()


def test_a_pool_without_room_says_what_it_waits_for(tmp_path: Path) -> None:
    settings = replace(QUICK, cpus=64.0, heartbeat_s=20.0, other="accelerator")
    harness = Harness(tmp_path, settings)
    harness.submit(ScriptedWork("a"))
    harness.pool.poll(0.1)
    harness.clock.ahead_s += 30.0
    harness.poll_until(lambda: bool(harness.said))
    harness.pool.poll(1.0)
    (line,) = harness.said
    assert re.search(r"for [34]\d s now: each needs 64 CPU and 1 accelerator on", line)
    assert "free are 2 of 2 CPU" in line
    harness.pool.close()


def test_an_actor_that_runs_here_needs_no_room(tmp_path: Path) -> None:
    engines = Harness(tmp_path, replace(QUICK, cpus=2.0))
    engines.run(ScriptedWork("a"))
    beside = Harness(tmp_path, replace(QUICK, here=True))
    assert beside.run(ScriptedWork("b", do="exit"))["b"].attempts == 2
    assert len(beside.losses) == len(beside.said) == 1
    for harness in (engines, beside):
        harness.pool.close()


def test_closing_ends_the_processes_and_frees_the_room(tmp_path: Path) -> None:
    harness = Harness(tmp_path, replace(QUICK, cpus=2.0))
    pid = harness.run(ScriptedWork("a"))["a"].value
    harness.pool.close()
    wait_until(lambda: not psutil.pid_exists(pid))
    wait_until(lambda: ray.available_resources().get("CPU") == 2.0)


DRIVER = """
import sys
from actors.supervision.process_guard import guard
watcher = guard()
from actors.supervision.pool import Pool, PoolSettings
from jobs.runtime.ray_cluster import init_ray
from tests.support.fakes import ScriptedActor, ScriptedWork
init_ray({"num_cpus": 2, "include_dashboard": False, "log_to_driver": False})
pool = Pool(ScriptedActor, [sys.argv[1]], PoolSettings(cpus=0.5, heartbeat_s=0.2))
pool.submit(ScriptedWork("quick"))
while not pool.poll(1.0):
    pass
pool.submit(ScriptedWork("long", seconds=600))
while True:
    pool.poll(0.2)
    print("ready", flush=True)
"""


def test_nothing_outlives_a_driver_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"ready\n"
    family = psutil.Process(driver.pid).children(recursive=True)
    assert processes("ScriptedActor", of=driver.pid)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    gone, alive = psutil.wait_procs(family, timeout=180)
    assert not alive
    assert len(gone) == len(family)


def wait_until(condition: Any, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.1)
