"""What the elastic run sees of its nodes, when it kills one, and its verdict."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jobs.elastic.__main__ import holds
from jobs.elastic.witness import ENGINE, RANK, Look, Witness, sampling, summary_of, training

ACCEPTED = {"type": "shard_accepted", "purpose": "evolve/0", "stage": "evolve/generate"}
CLOSED = {"type": "sampling_closed", "purpose": "evolve/0", "stage": "evolve/generate"}
SAVED = {"type": "checkpoint_saved", "job": "evolve/0", "stage": "evolve/learn"}
DONE = {"type": "job_done", "job": "evolve/0", "stage": "evolve/learn"}

# A node: a process that has one of a role below it, at work or not.
BUSY = "exec -a '{}' bash -c 'while :; do :; done' & wait"
IDLE = "exec -a '{}' sleep 1000 & wait"


class Nodes:
    """Nodes that are processes of the test."""

    def __init__(self) -> None:
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, script: str) -> None:
        self._started[name] = subprocess.Popen(["bash", "-c", script], start_new_session=True)

    @property
    def nodes(self) -> dict[str, int]:
        return {name: one.pid for name, one in self._started.items() if one.poll() is None}

    def kill_node(self, name: str) -> None:
        process = self._started[name]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        for name in self.nodes:
            self.kill_node(name)


@contextmanager
def nodes(**scripts: str) -> Iterator[Nodes]:
    found = Nodes()
    try:
        for name, script in scripts.items():
            found.start(name, script)
        yield found
    finally:
        found.end()


def look_until(witness: Witness, events: list[dict[str, Any]], kills: int) -> None:
    """Look until so many nodes were killed; processes take a moment to show who they are."""
    while len(witness.kills) < kills:
        witness.look(events)
        time.sleep(1.0)


def test_an_engines_node_is_killed_while_it_samples_and_a_ranks_while_it_trains() -> None:
    with nodes(idle=IDLE.format(ENGINE), busy=BUSY.format(ENGINE), rank=IDLE.format(RANK)) as some:
        witness = Witness(some, list)
        for events in ([ACCEPTED, CLOSED], [ACCEPTED, CLOSED, SAVED, DONE]):
            for _ in range(3):
                witness.look(events)
                time.sleep(0.3)
        assert not witness.kills
        look_until(witness, [ACCEPTED], 1)
        look_until(witness, [ACCEPTED, CLOSED, SAVED], 2)
        assert [(kill.role, kill.node) for kill in witness.kills] == [
            (ENGINE, "busy"), (RANK, "rank"),
        ]  # fmt: skip
        assert list(some.nodes) == ["idle"]
        witness.look([ACCEPTED])
        assert len(witness.kills) == 2
        last = witness.looks[-1]
        assert (last.nodes, last.engines, last.ranks) == (1, 1, 0)


def test_when_the_run_samples_and_when_it_trains() -> None:
    warmup = {**ACCEPTED, "purpose": "warmup"}
    assert not sampling([warmup])
    assert sampling([warmup, ACCEPTED])
    assert not sampling([ACCEPTED, CLOSED])
    assert not training([{**SAVED, "job": "warmup/0"}])
    assert training([DONE, SAVED])
    assert not training([SAVED, DONE])


def looks(*seen: tuple[int, int, int]) -> Witness:
    witness = Witness(Nodes(), list)
    witness.looks = [Look(float(at), *one, 0) for at, one in enumerate(seen)]
    return witness


@pytest.mark.parametrize(
    ("seen", "most", "shrank", "again"),
    [
        # nodes, engines, ranks
        ([(0, 0, 0), (3, 3, 0), (1, 0, 1), (3, 2, 1), (0, 0, 0)], 3, True, True),
        ([(0, 0, 0), (3, 3, 0), (1, 0, 1), (0, 0, 0)], 3, True, False),
        ([(0, 0, 0), (3, 2, 1), (3, 0, 1), (3, 2, 1)], 3, False, False),
        ([(0, 0, 0)], 0, False, False),
    ],
)
def test_what_the_nodes_did(
    seen: list[tuple[int, int, int]], most: int, shrank: bool, again: bool
) -> None:
    found = summary_of(looks(*seen))
    assert (found["nodes_max"], found["shrank"], found["grew_again"]) == (most, shrank, again)


GOOD: dict[str, Any] = {
    "status": "SUCCEEDED",
    "nodes_first": 0,
    "nodes_max": 3,
    "shrank": True,
    "grew_again": True,
    "kills": [{"role": ENGINE}, {"role": RANK}],
    "learner_lost": 1,
    "identical": True,
    "doubled": [],
    "nodes_left": 0,
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", "FAILED"), ("nodes_first", 1), ("nodes_max", 2), ("shrank", False),
        ("grew_again", False), ("kills", [{"role": ENGINE}]), ("learner_lost", 0),
        ("identical", False), ("doubled", ["rollout-1"]), ("nodes_left", 1),
    ],
)  # fmt: skip
def test_every_part_of_the_verdict_counts(key: str, value: Any) -> None:
    assert holds(GOOD)
    assert not holds({**GOOD, key: value})
