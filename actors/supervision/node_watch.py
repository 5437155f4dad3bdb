"""Whether the Ray node that this process works through is still there.

When its raylet dies (killed, or the machine had no memory left), nothing that this process asks of
Ray is placed any more, and Ray says so to no caller: whoever waits for an actor waits for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import ray

from pipeline.errors import RunStopped

ASK_S = 5.0


class NodeWatch:
    """This process's node, asked about every few seconds at most. Needs Ray to be running."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._id = ray.get_runtime_context().get_node_id()
        self._clock = clock
        self._asked = clock()

    def check(self) -> None:
        """
        Raises:
            RunStopped: the cluster counts the node as dead.
        """
        now = self._clock()
        if now - self._asked < ASK_S:
            return
        self._asked = now
        if any(node["NodeID"] == self._id and not node["Alive"] for node in ray.nodes()):
            raise RunStopped(
                "the Ray node that this driver works through is dead: its raylet was killed, or "
                "the machine ran out of memory. Start the same command again: the run goes on"
            )
