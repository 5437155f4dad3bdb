"""`mstar-ray trace`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.runtime.cli import ending
from jobs.runtime.options import Place, RunInStore, StoreOption, one_place


def trace(
    sample: Annotated[str, typer.Argument(metavar="SAMPLE", help="[PURPOSE:]QUERY/K")],
    place: Place = None,
    store: StoreOption = None,
    run: RunInStore = None,
) -> None:
    """Where one training sample comes from: its use, reward, grade, rollout, policy and query.

    Example: mstar-ray trace evolve/1:train-17/3 out/digits
    """
    with ending():
        from jobs.trace import trace

        trace(sample, one_place(place, store), run)
