"""Inside one Ray cluster a run has one driver, without any help from the store."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from actors.supervision.driver_lock import DriverLock
from jobs.runtime.ray_cluster import init_ray
from pipeline.run.lease import LeaseHeld
from pipeline.run.ledger import LedgerFenced

ROOT = Path(__file__).resolve().parents[3]

OTHER = """
import sys
import ray
from actors.supervision.driver_lock import DriverLock
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
mine = DriverLock("s3://b/x", "run")
mine.take()
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    context = init_ray(
        {
            "num_cpus": 1,
            "include_dashboard": False,
            "logging_level": "ERROR",
            "log_to_driver": False,
            "object_store_memory": 80 << 20,
        }
    )
    yield str(context.address_info["gcs_address"])
    ray.shutdown()


def test_of_two_drivers_of_a_cluster_one_has_the_run(cluster: str) -> None:
    first, second = DriverLock("s3://b/y", "run"), DriverLock("s3://b/y", "run")
    first.check()
    first.take()
    DriverLock("s3://b/y", "another run").take()
    with pytest.raises(LeaseHeld, match=r"process \d+ on .* in this Ray cluster.*--take-over"):
        second.take()
    first.check()
    second.take(take_over=True)
    second.check()
    with pytest.raises(LedgerFenced, match="has taken it over"):
        first.check()


def test_a_driver_that_was_killed_is_not_waited_for(cluster: str) -> None:
    mine = DriverLock("s3://b/x", "run")
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, cluster],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"taken\n"
        with pytest.raises(LeaseHeld, match=f"process {other.pid} on"):
            mine.take()
        other.kill()
        other.wait()
    end = time.monotonic() + 60
    while True:
        try:
            mine.take()
            break
        except LeaseHeld:
            assert time.monotonic() < end, "a dead driver holds the run"
            time.sleep(0.1)  # the cluster is only just being told of the death
    mine.check()
