"""What is looked after while the driver waits, and what a cluster's autoscaler says it can hold."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from ray.core.generated.autoscaler_pb2 import NodeGroupConfig

from actors.supervision.pool import PoolSettings
from actors.training.room import Bundle, LearnerRoom
from jobs.runtime.capacity import _node_type, autoscaling_file
from jobs.runtime.upkeep import Upkeep
from pipeline.errors import RunStopped
from pipeline.run.events.lifecycle import PoolResized
from tests.support.scripted_actors import Engines, Piece, scripted_pool


class NoRoom:
    """A reservation that nothing can hold."""

    def ready(self) -> bool:
        return False

    def release(self) -> None:
        """Given back."""


def test_engines_are_given_back_while_no_step_asks_them() -> None:
    engines, said = Engines(), list[str]()
    pool = scripted_pool(engines, PoolSettings(size=2, least=0, idle_s=30.0), said)
    pool.submit(Piece("shard"))
    upkeep = Upkeep([pool], None, turn_s=60.0, node=lambda: None, say=said.append)
    for _ in range(60):
        upkeep.check()  # the driver rests, and time passes
        engines.now += 1.0
    assert not engines.launched
    assert upkeep.resized() == [
        PoolResized("engine", 0, 1, "work left: 1"),
        PoolResized("engine", 1, 0, "idle for 30 s"),
    ]
    assert not upkeep.resized()
    assert [result.key for result in pool.poll()] == ["shard"]  # kept for the step that opens next


def test_idle_engines_make_room_for_ranks_that_wait() -> None:
    engines, said = Engines(), list[str]()
    pool = scripted_pool(engines, PoolSettings(size=2, least=2, idle_s=1e9), said)
    pool.submit(Piece("shard"))
    asked: list[list[Bundle]] = []

    def reserve(bundles: list[Bundle]) -> NoRoom:
        asked.append(bundles)
        return NoRoom()

    room = LearnerRoom(lambda: "nothing", said.append, reserve=reserve, clock=engines.clock)
    upkeep = Upkeep([pool], room, turn_s=60.0, node=lambda: None, say=said.append)
    room._wanted = [{"CPU": 1.0}]
    for _ in range(62):
        assert engines.launched or engines.now < 2.0
        upkeep.check()
        engines.now += 1.0
    upkeep.check()
    upkeep.check()
    assert not engines.launched
    assert asked == [[{"CPU": 1.0}]]
    assert any("learner: it has waited for room" in line for line in said)


def test_a_dead_node_ends_the_wait() -> None:
    def node() -> None:
        raise RunStopped("the node is dead")

    with pytest.raises(RunStopped, match="the node is dead"):
        Upkeep([], None, turn_s=60.0, node=node, say=print).check()


def test_the_autoscalers_node_groups_are_node_types() -> None:
    group = NodeGroupConfig(name="spot", resources={"CPU": 16, "GPU": 4, "x": 1}, max_count=3)
    made = _node_type(group)
    assert (made.name, made.cpus, made.gpus, made.most) == ("spot", 16.0, 4.0, 3.0)
    assert made.others == {"CPU": 16.0, "GPU": 4.0, "x": 1.0}
    endless = _node_type(NodeGroupConfig(name="any", resources={"CPU": 8}, max_count=-1))
    assert math.isinf(endless.most)
    assert endless.gpus == 0.0


def test_an_autoscaler_on_this_node_tells_its_node_types(tmp_path: Path) -> None:
    """By the file that it was started with, and only the one of the same cluster."""
    file = tmp_path / "autoscaling.yaml"
    ends = "import sys; sys.stdin.read()"
    words = ["--gcs-address=10.0.0.1:6379", f"--autoscaling-config={file}"]
    with subprocess.Popen([sys.executable, "-c", ends, *words], stdin=subprocess.PIPE):
        assert autoscaling_file("10.0.0.1:6379") == file
        assert autoscaling_file("10.0.0.2:6379") is None
