"""What a failure means is told where it is raised, from its kind, its cause or its words."""

from __future__ import annotations

import errno

import pytest

from actors.supervision.failures import Failure, WorkFailed, call, classify
from pipeline.errors import (
    ArtifactLost,
    BadData,
    CorruptObject,
    FailureKind,
    StoreMissing,
    StoreRefused,
    StoreUnavailable,
)
from pipeline.storage.backend import StoreFull


def wrapped() -> RuntimeError:
    """As an engine raises what broke it."""
    error = RuntimeError("EngineBroken")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ArtifactLost("images/a", "gone"), "lost"),
        (CorruptObject("x"), "lost"),
        (StoreMissing("x"), "lost"),
        (StoreUnavailable("x"), "infrastructure"),
        (StoreRefused("x"), "refused"),
        (StoreFull("x"), "refused"),
        (BadData("x"), "user"),
        (wrapped(), "user"),
        (ValueError("I/O error: No space left on device (os error 28)"), "user"),
        (WorkFailed(Failure("lost", "x", "y")), "lost"),
    ],
)
def test_a_failure_with_a_meaning_has_a_kind(error: Exception, kind: FailureKind) -> None:
    failure = classify(error)
    assert failure is not None
    assert failure.kind == kind


def test_what_has_no_meaning_of_its_own_is_raised() -> None:
    assert classify(ValueError("x")) is None
    with pytest.raises(ZeroDivisionError):
        call(lambda: 1 // 0)
    assert call(lambda: 1).value == 1
