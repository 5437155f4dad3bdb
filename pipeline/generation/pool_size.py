"""How many engines (or scorers) a pool keeps: one decision, made anew whenever something moved.

What always holds: a pool never has more than `most` members, nor fewer than work on something; it
asks at once for as many as its work can use; what is given back had nothing to do for `idle_s`, or
makes room for another role that waits for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class PoolLimits:
    """What a pool may be. least, most: members; inflight: pieces of work on a member at a time;
    idle_s: seconds without work after which one above `least` is given back."""

    least: int
    most: int
    inflight: int
    idle_s: float


@dataclass(frozen=True)
class PoolLoad:
    """What a pool has to do and who is there for it.

    outstanding: pieces of work without a result. busy: members that work on some. idle_s: how long
    each of the others, started or still to start, has had nothing to do. yielding: another role
    waits for room.
    """

    outstanding: int
    busy: int
    idle_s: tuple[float, ...]
    yielding: bool = False


@dataclass(frozen=True)
class PoolSize:
    """How many members a pool is to have, and why."""

    members: int
    reason: str


def pool_size(load: PoolLoad, limits: PoolLimits) -> PoolSize:
    """The size that a pool is to have now.

    Without work nothing is started, whatever `least` says: an engine is built for the policy that
    its first work names. While work is left, as many stay as can share it (the tail: what is lost
    there is done again at once).
    """
    there = load.busy + len(load.idle_s)
    if load.yielding:
        return PoolSize(load.busy, "another role waits for room")
    tired = sum(idle_s >= limits.idle_s for idle_s in load.idle_s)
    if not load.outstanding:
        kept = max(there - tired, min(limits.least, there))
        return PoolSize(min(kept, max(limits.most, load.busy)), f"idle for {limits.idle_s:g} s")
    usable = math.ceil(load.outstanding / limits.inflight)
    wanted = max(min(usable, limits.most), limits.least)
    kept = min(max(there - tired, wanted), max(limits.most, load.busy))
    return PoolSize(kept, f"work left: {load.outstanding}")
