"""`mstar-ray replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.runtime.cli import ending
from jobs.runtime.options import Place, RunInStore, StoreOption, one_place


def replay(
    place: Place = None,
    store: StoreOption = None,
    run: RunInStore = None,
    *,
    with_: Annotated[
        list[str] | None,
        typer.Option("--with", help="Settings of one replay: 'select.k=4 select.by=logprob'."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A file for the rows, as JSON.")] = None,
) -> None:
    """Selection, votes and temperatures again on stored shards with other settings, no engine.

    Each --with is a selection of its own, beside the run's. select.by=prm and thresholds read the
    scores of a run whose process reward model was in use.

    Example: mstar-ray replay out/digits --with select.k=4 --with "select.by=length select.k=1"
    --with generate.samples=4 --with explore.mode=argmax
    """
    with ending():
        from jobs.replay import replay

        replay(one_place(place, store), with_ or [], run, out)
