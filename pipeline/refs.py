"""References to what lies in the store: a policy's folder, a learner's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PolicyRef:
    """An immutable, complete model folder in the store.

    version: "policy-" and 16 hex digits of the hash of its manifest; path: prefix in the store.
    """

    version: str
    path: str


@dataclass(frozen=True)
class CheckpointRef:
    """Everything the learner needs to go on: weights, moments, schedule, RNG, cursor.

    path: prefix in the store; sha256: of its manifest. job, cursor: after how many steps of which
    job it was taken; step: optimizer steps since the optimizer was made. nats, tokens: summed loss
    and response tokens of the job so far, and logprob_deviation: what its first batch was measured
    to deviate by (see `LearnDone`), so that a job that was interrupted still reports all of itself.
    """

    path: str
    sha256: str
    job: str
    cursor: int
    step: int
    nats: float = 0.0
    tokens: int = 0
    logprob_deviation: float | None = None
