"""Which kills a run has to survive: every stage and victim at work in it, and every crash window.

What always holds: the plan is a pure function of its seed; a kill is one entry, done once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

SAMPLING = ("driver", "generator", "grader", "raylet", "store")
LEARNING = ("driver", "rank", "raylet", "store")
STAGES: dict[str, tuple[str, ...]] = {
    "warmup/generate": SAMPLING,
    "warmup/learn": LEARNING,
    "evaluate": SAMPLING,
    "prm/generate": SAMPLING,
    # Graded as any shard is; what is special is who asks for completions, and what continues them.
    "prm/annotate": ("driver", "generator", "store"),
    "prm/learn": LEARNING,
    "score": ("driver", "scorer", "raylet", "store"),
    "evolve/generate": SAMPLING,
    "evolve/learn": LEARNING,
    "control/learn": LEARNING,
}
# Each with its victim and the stage in which it is met; "": in whichever.
WINDOWS: dict[str, tuple[str, str]] = {
    "after a shard's upload, before its event": ("driver", ""),
    "after the labels' upload, before their event": ("driver", ""),
    "after scores' upload, before their event": ("driver", "score"),
    "after a checkpoint's event, before the old one's delete": ("driver", "control/learn"),
    "mid-PUT of a ledger entry": ("driver", ""),
    "mid-PUT of a checkpoint": ("driver", "prm/learn"),
    "mid-PUT of a shard": ("generator", ""),
    "mid-snapshot": ("driver", ""),
}
# By the kind of object that has just been stored.
UPLOADED = {
    "rollout": "after a shard's upload, before its event",
    "labels": "after the labels' upload, before their event",
    "score": "after scores' upload, before their event",
}
STORE_AWAY_S = 20.0
# Without these a job cannot go on, and without any other it must.
ENDS_A_LIFE = ("driver", "raylet")


@dataclass(frozen=True)
class Kill:
    """One SIGKILL (or 20 s without a store). window: "" for a victim at work in a stage; stage: ""
    for a window that may be met in any. delay_s: from the event that sets it off."""

    stage: str
    victim: str
    window: str = ""
    delay_s: float = 0.0


def plan(seed: int, kills: int | None = None) -> list[Kill]:
    """Every kill in a seeded order, or `kills` of them, one of each kind before a second."""
    random = Random(seed)
    # Who is killed in a window that belongs to a stage is at work in it: one kill does for both.
    in_windows = {(stage, victim) for victim, stage in WINDOWS.values()}
    found = [
        Kill(stage, victim, delay_s=round(random.uniform(0.0, 0.4), 3))
        for stage, victims in STAGES.items()
        for victim in victims
        if (stage, victim) not in in_windows
    ]
    found += [Kill(stage, victim, window) for window, (victim, stage) in WINDOWS.items()]
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
    match event["type"]:
        case "shard_accepted":
            if str(event["purpose"]).startswith("prm/values/"):
                return "prm/annotate"
            purpose = str(event["purpose"]).split("/")[0]
            return purpose if purpose == "evaluate" else f"{purpose}/generate"
        case "checkpoint_saved":
            return f"{str(event['job']).split('/')[0]}/learn"
        case "shard_graded":
            # graded for training and not chosen from: it is scored next
            waits = str(event["purpose"]).startswith("evolve/") and event["selected"] is None
            return "score" if waits else ""
        case "shard_scored":
            return "score"
    return ""


def window_of(method: str, path: str, size: int, moment: str, status: int) -> str:
    """The crash window that a request to the store is in, "" for none.

    path: below the run's store.
    """
    kind, _, rest = path.partition("/")
    put = method == "PUT" and moment == "before"
    if method == "PUT" and moment == "after" and status == 200 and kind == "shards":
        return UPLOADED.get(rest.partition("/")[0], "")
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
