"""`mstar-ray audit`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.commands.diff import diff
from jobs.commands.trace import trace
from jobs.runtime.cli import ending
from jobs.runtime.options import Place, RunInStore, StoreOption, TrustRemoteCode, one_place


def audit(
    place: Place = None,
    store: StoreOption = None,
    run: RunInStore = None,
    *,
    trust_remote_code: TrustRemoteCode = False,
    trace_: Annotated[str | None, typer.Option("--trace", hidden=True)] = None,
    diff_: Annotated[tuple[str, str] | None, typer.Option("--diff", hidden=True)] = None,
    other: Annotated[str | None, typer.Option("--other", hidden=True)] = None,
) -> None:
    """Check every hash and every link of a run, offline; 1 when something is damaged or missing.

    Nothing is changed, and a driver at work is not disturbed.

    Example: mstar-ray audit out/digits
    """
    if diff_ is not None:
        return diff(*diff_, store=one_place(place, store), other=other)
    if trace_ is not None:
        return trace(trace_, place, store, run)
    with ending():
        from jobs.audit import audit_run

        clean = audit_run(one_place(place, store), run, trusted=trust_remote_code)
    raise typer.Exit(0 if clean else 1)
