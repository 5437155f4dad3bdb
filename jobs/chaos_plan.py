"""Which kills a run has to survive: every stage and victim at work in it, and every crash window.

What always holds: the plan is a pure function of its seed; a kill is one entry, done once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

SAMPLING = ("driver", "generator", "grader", "raylet", "store")
LEARNING = ("driver", "rank", "raylet", "store")
STAGES: dict[str, tuple[str, ...]] = {
    "warmup/generate": SAMPLING,
    "warmup/learn": LEARNING,
    "evaluate": SAMPLING,
    "evolve/generate": SAMPLING,
    "evolve/learn": LEARNING,
    "control/learn": LEARNING,
}
WINDOWS: dict[str, str] = {
    "after a shard's upload, before its event": "driver",
    "after a checkpoint's event, before the old one's delete": "driver",
    "mid-PUT of a ledger entry": "driver",
    "mid-PUT of a checkpoint": "driver",
    "mid-PUT of a shard": "generator",
    "mid-snapshot": "driver",
}
STORE_AWAY_S = 20.0


@dataclass(frozen=True)
class Kill:
    """One SIGKILL (or 20 s without a store). window: "" for a victim at work in a stage; stage: ""
    for a window, which may be met in any. delay_s: from the event that sets it off."""

    stage: str
    victim: str
    window: str = ""
    delay_s: float = 0.0


def plan(seed: int, kills: int | None = None) -> list[Kill]:
    """Every kill in a seeded order, or `kills` of them, one of each kind before a second."""
    random = Random(seed)
    found = [
        Kill(stage, victim, delay_s=round(random.uniform(0.0, 0.4), 3))
        for stage, victims in STAGES.items()
        for victim in victims
    ]
    found += [Kill("", victim, window) for window, victim in WINDOWS.items()]
    random.shuffle(found)
    if kills is None:
        return found
    first: dict[str, Kill] = {}
    for kill in found:
        first.setdefault(kill.window or kill.victim, kill)
    ordered = [*first.values(), *(kill for kill in found if kill not in first.values())]
    return ordered[:kills]


def stage_of(event: Mapping[str, Any]) -> str:
    """Where the run is at work right after this event; "" where nobody is for sure."""
    if event["type"] == "shard_accepted":
        purpose = str(event["purpose"]).split("/")[0]
        return purpose if purpose == "evaluate" else f"{purpose}/generate"
    if event["type"] == "checkpoint_saved":
        return f"{str(event['job']).split('/')[0]}/learn"
    return ""


def window_of(method: str, path: str, size: int, moment: str, status: int) -> str:
    """The crash window that a request to the store is in, "" for none.

    path: below the run's store.
    """
    kind = path.partition("/")[0]
    put = method == "PUT" and moment == "before"
    if (
        method == "PUT"
        and moment == "after"
        and status == 200
        and path.startswith("shards/rollout/")
    ):
        return "after a shard's upload, before its event"
    if method == "DELETE" and moment == "before" and kind == "checkpoints":
        return "after a checkpoint's event, before the old one's delete"
    if put and "/ledger/" in path:
        return "mid-PUT of a ledger entry"
    if put and kind == "checkpoints" and size > 100_000:
        return "mid-PUT of a checkpoint"
    if put and path.startswith("shards/rollout/"):
        return "mid-PUT of a shard"
    if put and "/snapshots/" in path:
        return "mid-snapshot"
    return ""


def uncovered(kills: Sequence[Kill], done: Sequence[Kill]) -> list[Kill]:
    """What was planned and did not happen."""
    return [kill for kill in kills if kill not in done]
