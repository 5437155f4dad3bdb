"""The pool on a real Ray, with actors that die, hang and raise where the test says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from actors.pool import Pool, PoolBroken, PoolSettings, Result
from pipeline.errors import UserError
from tests.fakes import ScriptedActor

# A second without progress is a hang only where a test makes one: this machine may be busy.
QUICK = PoolSettings(cpus=0.5, hang_s=60.0, heartbeat_s=0.2, attempts=3, backoff_s=0.1)
IMPATIENT = replace(QUICK, hang_s=5.0)
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="pool")
    yield
    ray.shutdown()


class Harness:
    """A pool of scripted actors, everything it said, and its results by id."""

    def __init__(self, folder: Path, settings: PoolSettings, start: str = "value") -> None:
        (folder / "log").touch()
        self.folder = folder
        self.said: list[str] = []
        self.pool = Pool(ScriptedActor, [str(folder), start], settings, say=self.said.append)
        self.ended: list[Result] = []

    def run(self, *specs: dict[str, Any], seconds: float = 120.0) -> dict[str, Result]:
        for spec in specs:
            self.pool.submit(spec)
        end = time.monotonic() + seconds
        while self.pool.outstanding and time.monotonic() < end:
            self.ended += self.pool.poll(1.0)
        return {result.spec_id: result for result in self.ended}

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
    specs = [{"id": f"s{number}"} for number in range(12)]
    results = harness.run(*specs)
    assert harness.log("run") == [spec["id"] for spec in specs]
    assert all(result.ok and result.attempts == 1 for result in results.values())
    assert {result.value["id"] for result in results.values()} == set(results)
    assert not harness.said


def test_submitting_what_is_under_way_does_nothing(harness: Harness) -> None:
    harness.run({"id": "a"}, {"id": "a"})
    assert harness.log("run") == ["a"]
    harness.run({"id": "a"})
    assert harness.log("run") == ["a", "a"]


@pytest.mark.parametrize(
    ("harness", "how"),
    [(QUICK, "exit"), (QUICK, "kill"), (QUICK, "raise"), (IMPATIENT, "hang"), (IMPATIENT, "stop")],
    indirect=["harness"],
)
def test_a_lost_engine_is_replaced_and_its_work_comes_first(harness: Harness, how: str) -> None:
    results = harness.run({"id": "first", "do": how}, {"id": "second"}, {"id": "third"})
    assert harness.log("run") == ["first", "first", "second", "third"]
    assert results["first"].ok
    assert results["first"].attempts == 2
    assert harness.starts() == 2
    assert len(harness.said) == 1
    assert "first" in harness.said[0]


@pytest.mark.parametrize("harness", [replace(QUICK, inflight=2)], indirect=True)
def test_what_kills_engines_takes_nothing_with_it(harness: Harness) -> None:
    """Both were on the engine when it died; the retries are alone, so only the poison fails."""
    poison = {"id": "poison", "do": "exit", "times": 9, "seconds": 0.3}
    results = harness.run(poison, {"id": "neighbour", "seconds": 1.0}, {"id": "next"})
    assert results["neighbour"].ok
    assert results["next"].ok
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
    results = harness.run({"id": "a", "meets": "b"}, {"id": "b", "meets": "a"})
    assert len({result.value["pid"] for result in results.values()}) == 2
    assert all(result.attempts == 1 for result in results.values())


def test_a_failure_that_was_told_apart_inside_the_actor_ends_at_once(harness: Harness) -> None:
    results = harness.run({"id": "bad", "do": "user"}, {"id": "good"})
    failure = results["bad"].failure
    assert failure is not None
    assert (failure.kind, failure.reason) == ("user", "mend this")
    assert results["good"].ok
    assert harness.starts() == 1


def test_an_infrastructure_failure_is_tried_again_on_the_same_engine(harness: Harness) -> None:
    results = harness.run({"id": "a", "do": "infrastructure", "times": 2})
    assert results["a"].ok
    assert results["a"].attempts == 3
    assert harness.starts() == 1
    assert all("the store does not answer" in line for line in harness.said)


@pytest.mark.parametrize("harness", [IMPATIENT], indirect=True)
def test_slow_work_that_moves_is_not_hung(harness: Harness) -> None:
    results = harness.run({"id": "slow", "seconds": 1.5 * IMPATIENT.hang_s})
    assert results["slow"].attempts == 1
    assert not harness.said


@pytest.mark.parametrize("harness", [IMPATIENT], indirect=True)
def test_a_driver_that_slept_does_not_take_its_fleet_for_hung(harness: Harness) -> None:
    harness.run({"id": "warm"})
    harness.pool.submit({"id": "long", "seconds": 2 * IMPATIENT.hang_s})
    harness.pool.poll(0.5)
    time.sleep(1.5 * IMPATIENT.hang_s)
    assert harness.run()["long"].attempts == 1


def test_an_engine_that_never_starts_stops_the_pool(tmp_path: Path) -> None:
    harness = Harness(tmp_path, QUICK, start="raise")
    with pytest.raises(PoolBroken, match="the engine is broken"):
        harness.run({"id": "a"})
    assert harness.starts() == QUICK.attempts
    harness.pool.close()


def test_a_start_that_a_person_has_to_mend_says_so(tmp_path: Path) -> None:
    harness = Harness(tmp_path, QUICK, start="user")
    with pytest.raises(UserError, match="mend this"):
        harness.run({"id": "a"})
    harness.pool.close()


def test_a_pool_without_room_says_what_it_waits_for(tmp_path: Path) -> None:
    harness = Harness(tmp_path, replace(QUICK, cpus=64.0))
    harness.run({"id": "a"}, seconds=2.0)
    assert harness.said == [line for line in harness.said if "needs 64 CPU" in line][:1]
    harness.pool.close()


def test_closing_ends_the_processes_and_frees_the_room(tmp_path: Path) -> None:
    harness = Harness(tmp_path, replace(QUICK, cpus=2.0))
    pid = harness.run({"id": "a"})["a"].value["pid"]
    harness.pool.close()
    wait_until(lambda: not psutil.pid_exists(pid))
    wait_until(lambda: ray.available_resources().get("CPU") == 2.0)


DRIVER = """
import sys
from actors.guardian import guard
watcher = guard()
import ray
from actors.pool import Pool, PoolSettings
from tests.fakes import ScriptedActor
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
pool = Pool(ScriptedActor, [sys.argv[1]], PoolSettings(cpus=0.5, heartbeat_s=0.2))
pool.submit({"id": "quick"})
while not pool.poll(1.0):
    pass
pool.submit({"id": "long", "seconds": 600})
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
    assert any("ScriptedActor" in " ".join(one.cmdline()) for one in family)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    gone, alive = psutil.wait_procs(family, timeout=90)
    assert not alive
    assert len(gone) == len(family)


def wait_until(condition: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.1)
