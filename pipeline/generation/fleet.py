"""The fleet's protocol: shards handed to engines, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import FailureKind
from pipeline.generation.shards import ShardSpec
from pipeline.refs import PolicyRef


@dataclass(frozen=True)
class BadQuery:
    """A query that fails for a reason of its own, on any machine."""

    query: str
    reason: str


@dataclass(frozen=True)
class ShardDone:
    """A rollout shard lies in the store. Rows of bad queries are not in it."""

    key: str
    rollout: str
    rows: int
    tokens: int
    seconds: float
    engine: str = ""
    bad: tuple[BadQuery, ...] = ()


@dataclass(frozen=True)
class ShardFailed:
    """The fleet gave a shard up.

    infrastructure: every attempt met another dead or broken engine. lost: an object that it reads
    (`path`: an image, the policy) is corrupt or gone. refused: the store says no. user: the reason
    says what a person has to mend.
    """

    key: str
    reason: str
    kind: FailureKind = "infrastructure"
    path: str = ""


class Fleet(Protocol):
    """Engines, however many and wherever."""

    def submit(self, spec: ShardSpec, policy: PolicyRef) -> None:
        """Generate this shard. Submitting a key that is under way does nothing."""

    def poll(self) -> Sequence[ShardDone | ShardFailed]:
        """What has ended since the last call."""
