"""Why a call gave no value: every failure classified once, in the process where it is raised.

Exceptions lose their type on the way out of a Ray actor, so the ones that mean something become a
`Failure` inside it (`classify`), the same in an engine, a stage worker and a rank of the learner.
Everything else is left to propagate: to the pool, an actor that raises is one whose state is
unknown, and it is replaced.

* infrastructure: the work is fine, the fleet or the store is not; it is tried again.
* lost: an object that the work reads is corrupt (and in quarantine) or gone; `path` names it.
* refused: the store says no (credentials, a full disk); trying again is no use.
* user: the message says what a person has to mend; a full disk is one, whichever library met it.

What is wrong with one query is neither: it is recorded with the query, in the value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.errors import (
    ArtifactLost,
    CorruptObject,
    FailureKind,
    StoreMissing,
    StoreRefused,
    StoreUnavailable,
    UserError,
)
from pipeline.storage.disk import disk_full


@dataclass(frozen=True)
class Failure:
    """Why there is no value."""

    kind: FailureKind
    reason: str
    path: str = ""


class WorkFailed(Exception):
    """A failure that was classified in another process, raised again in this one."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


@dataclass(frozen=True)
class CallResult:
    """A value, or the failure that stands in its place."""

    value: Any = None
    failure: Failure | None = None


def classify(error: BaseException) -> Failure | None:
    """The failure that an exception stands for; None for one that has no meaning of its own."""
    match error:
        case WorkFailed():
            return error.failure
        case ArtifactLost():
            return Failure("lost", error.reason, error.path)
        case CorruptObject() | StoreMissing():
            return Failure("lost", str(error))
        case StoreUnavailable():
            return Failure("infrastructure", str(error))
        case StoreRefused():
            return Failure("refused", str(error))
        case UserError():
            return Failure("user", str(error))
    full = disk_full(error)
    return None if full is None else Failure("user", str(full))


def call(action: Callable[..., Any], *args: Any) -> CallResult:
    """Call `action`; a failure that has a meaning becomes a value, any other error is raised."""
    try:
        return CallResult(action(*args))
    except Exception as error:
        failure = classify(error)
        if failure is None:
            raise
        return CallResult(failure=failure)
