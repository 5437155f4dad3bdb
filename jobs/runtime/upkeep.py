"""What is looked after while the driver waits, whichever step is open: its node, the pools of
engines and scorers, the learner's room, and whose turn it is to have room.

So engines are given back while the learner trains, and a role that waits for room says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.supervision.pool import Pool
from actors.supervision.turns import Turns
from actors.training.room import LearnerRoom
from pipeline.run.events.lifecycle import PoolResized


class Upkeep:
    """The roles of one run. room: None on a private Ray, where there is room for every role."""

    def __init__(
        self,
        pools: Sequence[Pool],
        room: LearnerRoom | None,
        *,
        turn_s: float,
        node: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._pools = pools
        self._room = room
        self._node = node
        self._turns = None if room is None else Turns([*pools, room], turn_s, say)

    def check(self) -> None:
        """
        Raises:
            RunStopped: the driver's node is dead.
            UserError: a pool gets nothing done.
        """
        self._node()
        for pool in self._pools:
            pool.tend()
        if self._room is not None and self._turns is not None:
            self._room.tend()
            self._turns.tend()

    def resized(self) -> list[PoolResized]:
        """The pools' changes of size since the last call."""
        return [PoolResized(**vars(each)) for pool in self._pools for each in pool.resized()]
