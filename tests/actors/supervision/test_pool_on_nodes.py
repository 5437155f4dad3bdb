"""A pool on a cluster whose nodes come and go: real raylets, and actors that a test scripts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from actors.supervision.pool import Pool, PoolSettings, Result
from actors.training.room import RayReserved
from tests.support.fakes import ScriptedActor, ScriptedWork

# Longer than what it waits for, on a busy machine.
pytestmark = pytest.mark.timeout(600)

SETTINGS = PoolSettings(size=2, least=0, cpus=2.0, idle_s=100.0, heartbeat_s=20.0, attempts=2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without room for an engine."""
    quick = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": quick}
    made = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=made.address, log_to_driver=False, namespace="nodes")
    yield made
    ray.shutdown()
    made.shutdown()


class Harness:
    """A pool, and time that a test adds to the clock's."""

    def __init__(self, folder: Path) -> None:
        (folder / "log").touch()
        self.folder = folder
        self.ahead_s = 0.0
        self.said: list[str] = []
        self.ended: list[Result] = []
        self.pool = Pool(
            ScriptedActor, [str(folder)], SETTINGS, say=self.said.append, clock=self.clock
        )

    def clock(self) -> float:
        return time.monotonic() + self.ahead_s

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 280.0
        while not condition():
            assert time.monotonic() < end, f"it did not come true; said: {self.said}"
            self.ended += self.pool.poll(0.1)

    def let_pass(self, seconds: float) -> None:
        """Time goes on while the pool is tended: of one late poll little would count."""
        for _ in range(int(seconds / SETTINGS.heartbeat_s) + 1):
            self.ahead_s += SETTINGS.heartbeat_s
            self.pool.poll()

    def log(self) -> list[str]:
        return [line.split(" ", 1)[1] for line in (self.folder / "log").read_text().splitlines()]


@pytest.fixture
def harness(cluster: Cluster, tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path)
    yield made
    made.pool.close()


def test_a_demand_above_the_cluster_waits_and_a_node_that_comes_takes_it(
    cluster: Cluster, harness: Harness
) -> None:
    """Then the pool shrinks when idle, and grows again with work."""
    pool = harness.pool
    ranks = RayReserved([{"CPU": 2.0}, {"CPU": 1.0}])
    pool.submit(ScriptedWork("first"))
    harness.let_pass(60.0)
    (line,) = harness.said[:1]
    assert "1 of 1 wait for room" in line
    assert "each needs 2 CPU on one node; free are 1 of 1 CPU" in line
    assert not ranks.ready()
    assert not harness.log()

    cluster.add_node(num_cpus=6)  # for an engine and both ranks, however they lie
    harness.until(lambda: len(harness.ended) == 1)
    assert harness.ended[0].attempts == 1
    harness.until(ranks.ready)
    ranks.release()

    harness.let_pass(120.0)
    harness.until(lambda: ray.available_resources().get("CPU") == 7.0)
    works = [ScriptedWork(name, until=(f"run {other}", 1)) for name, other in ("ab", "ba")]
    for work in works:
        pool.submit(work)
    harness.until(lambda: len(harness.ended) == 3)  # each waited for the other's engine
    assert [(each.before, each.after) for each in pool.resized()] == [(0, 1), (1, 0), (0, 2)]
