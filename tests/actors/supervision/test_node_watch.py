"""A driver whose Ray node dies says so and ends; it does not wait for ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.supervision.node_watch import ASK_S, NodeWatch
from pipeline.errors import RunStopped

# Longer than what it waits for, on a busy machine.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[3]

DRIVER = """
import os, time
from actors.supervision.node_watch import NodeWatch
from jobs.chaos.victims import Family, kill
from jobs.runtime.ray_cluster import init_ray
from pipeline.errors import RunStopped

family = Family(os.getpid())
init_ray(
    {
        "num_cpus": 1,
        "include_dashboard": False,
        "log_to_driver": False,
        "object_store_memory": 100 << 20,
    }
)
node = NodeWatch()
node.check()
assert kill(family.any("raylet"))
end = time.monotonic() + 300
try:
    while time.monotonic() < end:
        node.check()
        time.sleep(0.5)
except RunStopped as error:
    print("STOPPED", error)
"""


def test_a_node_whose_raylet_was_killed_is_found_dead() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert "STOPPED the Ray node that this driver works through is dead" in done.stdout, done.stderr
    assert "the run goes on" in done.stdout


def test_only_ones_own_node_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        def get_node_id(self) -> str:
            return "mine"

    asked: list[float] = []
    nodes = [{"NodeID": "other", "Alive": False}, {"NodeID": "mine", "Alive": True}]
    now = 0.0

    def answer() -> list[dict[str, Any]]:
        asked.append(now)
        return nodes

    monkeypatch.setattr(ray, "get_runtime_context", Context)
    monkeypatch.setattr(ray, "nodes", answer)
    node = NodeWatch(clock=lambda: now)
    for _ in range(10):
        node.check()
        now += ASK_S / 2
    assert len(asked) == 4
    nodes[1]["Alive"] = False
    now += ASK_S
    with pytest.raises(RunStopped, match="dead"):
        node.check()
