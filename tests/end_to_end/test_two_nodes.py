"""A run whose ranks are on a node that shares no disk with the driver's, beside one on one node."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.runtime.ray_cluster import LOOPBACK
from pipeline.run.ledger import Ledger
from pipeline.storage.store import open_store
from tests.support.driving import outcome
from tests.support.main_job import LIMIT_S, PRM, MainJob
from tests.support.own_node import ROOT, check_namespaces, node_command
from tests.support.s3_servers import BUCKET, moto_server

# Every stage once, and as little of it as can be.
LEAST = (
    *PRM, "run.deterministic=true", "data.validation_queries=4", "data.test_queries=4",
    "evaluate.samples=0", "cluster.cpus_per_engine=2", "cluster.cpus_per_rank=1",
)  # fmt: skip


class Job(MainJob):
    """The tiny recipe with its store behind S3."""

    def __init__(self, out: Path, name: str, overrides: tuple[str, ...] = ()) -> None:
        out.mkdir()
        self.url = f"s3://{BUCKET}/{name}"
        super().__init__(out, [*LEAST, f"store.url={self.url}", *overrides])

    @property
    def events(self) -> list[dict[str, Any]]:
        return list(Ledger(open_store(self.url), "tiny").replay())


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def two_nodes(log: Path) -> Iterator[str]:
    """The address of a cluster of two: this machine as it is, where nothing asks for `ranks`, and a
    node that sees none of its temporary files."""
    address = f"127.0.0.1:{free_port()}"
    port = address.partition(":")[2]
    memory = ["--object-store-memory", str(100 << 20)]
    head = [
        *memory, "--node-ip-address", "127.0.0.1", "--head", "--port", port, "--num-cpus", "6",
        "--include-dashboard", "false", "--ray-client-server-port", str(free_port()),
    ]  # fmt: skip
    # At an address of its own: a driver joins the cluster by the node at its own.
    other = [
        *memory, "--node-ip-address", "127.0.0.2", "--address", address,
        "--num-cpus", "1", "--resources", '{"ranks": 1}',
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with ExitStack() as stack, log.open("wb") as written:
        nodes = (node_command(head), node_command(other, Path(tempfile.gettempdir())))
        for count, command in enumerate(nodes, 1):
            node = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=written, stderr=written
            )
            stack.callback(node.wait)
            stack.callback(node.kill)
            until_up(node, log, count)
        yield address


def until_up(node: subprocess.Popen[bytes], log: Path, count: int) -> None:
    """Wait until so many nodes have said that they are."""
    limit = time.monotonic() + LIMIT_S
    while log.read_text().count("Ray runtime started") < count:
        assert node.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < limit, log.read_text()[-4000:]
        time.sleep(0.2)


def stored(events: list[dict[str, Any]]) -> dict[str, str]:
    """Each job's weights and moments, by content."""
    return {
        event["job"]: event["checkpoint"]["sha256"]
        for event in events
        if event["type"] == "job_done"
    }


@pytest.mark.timeout(LIMIT_S)
def test_ranks_on_a_node_without_the_drivers_disk_train_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_namespaces()
    # What a node or a driver needs to join, wherever its user's own token is.
    monkeypatch.delenv(LOOPBACK, raising=False)  # said to a Ray of this process, and stays said
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with ExitStack() as stack:
        stack.enter_context(moto_server())
        one = Job(tmp_path / "one", "one")
        stack.callback(one.kill)
        one.finish()
        address = stack.enter_context(two_nodes(tmp_path / "nodes"))
        two = Job(
            tmp_path / "two",
            "two",
            (f"cluster.address={address}", "cluster.rank_resource=ranks"),
        )
        stack.callback(two.kill)
        assert two.start().wait(LIMIT_S) == 0, two.said[-4000:]
        found, wanted = outcome(two.events), outcome(one.events)
        assert json.dumps(found, sort_keys=True) == json.dumps(wanted, sort_keys=True)
        assert stored(two.events) == stored(one.events)
        assert stored(two.events).keys() == {"warmup/0", "prm/0", "evolve/0"}
    # Checkpoints were where the ranks are: on the driver's node in one run, not so in the other.
    assert list(one.out.glob("cache/*/trees/checkpoints/*"))
    assert not list(two.out.glob("cache/*/trees/checkpoints/*"))
