"""A run whose ranks are on a node that shares no disk with the driver's, beside one on one node."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cluster.local.cluster import LocalCluster, NodeType, short_folder
from pipeline.run.ledger import Ledger
from pipeline.storage.store import open_store
from tests.support.driving import outcome
from tests.support.main_job import LIMIT_S, PRM, SMALL, MainJob
from tests.support.s3_servers import BUCKET, moto_server

# As little of it as can be, and no engine or scorer fits on the node of the ranks.
LEAST = (
    "run.deterministic=true", "data.validation_queries=4", "data.test_queries=4",
    "evaluate.samples=0", "cluster.cpus_per_engine=2", "cluster.cpus_per_rank=1",
)  # fmt: skip

RANKS = {"CPU": 1.0, "ranks": 1.0}
"""What the node of the ranks has; nothing else asks for its second resource."""


class Job(MainJob):
    """The tiny recipe with its store behind S3, on a cluster."""

    def __init__(self, out: Path, address: str, overrides: Sequence[str]) -> None:
        out.mkdir()
        self.url = f"s3://{BUCKET}/{out.name}"
        place = (f"store.url={self.url}", f"cluster.address={address}")
        super().__init__(out, [*overrides, *place])

    @property
    def events(self) -> list[dict[str, Any]]:
        return list(Ledger(open_store(self.url), "tiny").replay())

    @property
    def checkpoints(self) -> list[Path]:
        """What of checkpoints is in its node cache on this machine as it is."""
        return list(self.out.glob("cache/*/trees/checkpoints/*"))


def stored(events: list[dict[str, Any]]) -> dict[str, str]:
    """Each job's weights and moments, by content."""
    return {
        event["job"]: event["checkpoint"]["sha256"]
        for event in events
        if event["type"] == "job_done"
    }


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """A head, where drivers run, and a node for ranks that sees nothing of what drivers write."""
    with ExitStack() as stack:
        stack.enter_context(moto_server())
        made = stack.enter_context(
            LocalCluster(
                stack.enter_context(short_folder()),
                {"ranks": NodeType(RANKS, most=1)},
                idle_s=LIMIT_S,
                hidden=[tmp_path],
                head_cpus=16,
            )
        )
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        yield made


def finish(jobs: Sequence[Job]) -> None:
    """Run all of them to their ends, at the same time."""
    with ExitStack() as stack:
        drivers = []
        for job in jobs:
            stack.callback(job.kill)
            drivers.append(job.start())
        for job, process in zip(jobs, drivers, strict=True):
            assert process.wait(LIMIT_S) == 0, job.said[-4000:]


def assert_trained_apart(job: Job, cluster: LocalCluster) -> None:
    """Its checkpoints were where the ranks are, and nowhere else."""
    assert not job.checkpoints
    kept = f"nodes/*/hidden-*/{job.out.name}/cache/*/trees/checkpoints/*"
    assert list(cluster.folder.glob(kept))


@pytest.mark.timeout(LIMIT_S)
def test_ranks_train_on_a_node_without_the_drivers_disk(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    job = Job(tmp_path / "two", cluster.address, [*SMALL, *LEAST, "cluster.rank_resource=ranks"])
    finish([job])
    assert "warmup/0" in stored(job.events)  # of so few questions all may be answered wrongly later
    assert_trained_apart(job, cluster)


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize(
    ("settings", "jobs"),
    [(SMALL, {"warmup/0"}), (PRM, {"warmup/0", "prm/0", "evolve/0"})],
    ids=["binary", "prm"],
)
def test_ranks_on_a_node_without_the_drivers_disk_train_the_same_bits(
    settings: tuple[str, ...], jobs: set[str], cluster: LocalCluster, tmp_path: Path
) -> None:
    """At the same time, on one cluster: with ranks beside the driver, and on the other node."""
    changes = [*settings, *LEAST]
    # Its rank is too large for the other node.
    one = Job(tmp_path / "one", cluster.address, [*changes, "cluster.cpus_per_rank=2"])
    two = Job(tmp_path / "two", cluster.address, [*changes, "cluster.rank_resource=ranks"])
    finish([one, two])
    found, wanted = outcome(two.events), outcome(one.events)
    assert json.dumps(found, sort_keys=True) == json.dumps(wanted, sort_keys=True)
    assert stored(two.events) == stored(one.events)
    assert jobs <= stored(two.events).keys()
    assert one.checkpoints
    assert_trained_apart(two, cluster)
