"""What comes back from an actor: a value, or a failure whose kind was told apart inside it.

Exceptions lose their type on the way out of a Ray actor, so the ones that mean something are turned
into a `Failure` where they are raised. Everything else is left to propagate: to the pool, an actor
that raises is an engine whose state is unknown, and it is replaced.

* infrastructure: the work is fine, the fleet or the store is not; it is tried again.
* lost: an object that the work reads is corrupt (and in quarantine) or gone; `path` names it.
* refused: the store says no (credentials, a full disk); trying again is no use.
* user: the message says what a person has to mend.

What is wrong with one query is neither: it is recorded with the query, in the value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import CorruptObject, StoreMissing, StoreRefused, StoreUnavailable, UserError

FailureKind = Literal["infrastructure", "lost", "refused", "user"]


class ObjectLost(Exception):
    """An object that has to be read is corrupt or gone; `path` is where it lay."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path = path


@dataclass(frozen=True)
class Failure:
    """Why there is no value."""

    kind: FailureKind
    reason: str
    path: str = ""


@dataclass(frozen=True)
class Outcome:
    """A value, or the failure that stands in its place."""

    value: Any = None
    failure: Failure | None = None


def outcome_of(action: Callable[..., Any], *args: Any) -> Outcome:
    """Call `action` and tell its failures apart."""
    try:
        return Outcome(action(*args))
    except ObjectLost as error:
        return Outcome(failure=Failure("lost", str(error), error.path))
    except (CorruptObject, StoreMissing) as error:
        return Outcome(failure=Failure("lost", str(error)))
    except StoreUnavailable as error:
        return Outcome(failure=Failure("infrastructure", str(error)))
    except StoreRefused as error:
        return Outcome(failure=Failure("refused", str(error)))
    except UserError as error:
        return Outcome(failure=Failure("user", str(error)))
