"""How the sizes of pools are shown."""

from __future__ import annotations

from pipeline.reports.status import pool_lines
from pipeline.run.events.lifecycle import PoolResized


def test_a_pools_sizes_are_told_from_the_ledger() -> None:
    changes = [
        PoolResized("engine", 0, 8, "work left: 16"),
        PoolResized("scorer", 0, 1, "work left: 1"),
        PoolResized("engine", 8, 0, "idle for 300 s"),
    ]
    events = [{"type": "driver_started"}, *(change.to_wire() for change in changes)]
    assert list(pool_lines(events)) == [
        "engines asked for: 0 (idle for 300 s); 8 at most, changed 2 times",
        "scorers asked for: 1 (work left: 1); 1 at most, changed 1 times",
    ]
    assert not list(pool_lines([]))
