"""`mstar-ray plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.runtime.cli import ending
from jobs.runtime.options import Recipe, Set, settings

MEASURED = "A run whose rates are taken: its folder (out/RUN) or store."
QUERIES = "Labelled queries of a split, where the data is not here."
COMPARE = "Also with other values, such as generate.engines=4,8; as often as wanted."

Given = Annotated[list[str] | None, typer.Option("--queries", metavar="SPLIT=N", help=QUERIES)]
Others = Annotated[list[str] | None, typer.Option("--compare", metavar="KEY=A,B", help=COMPARE)]
RunOf = Annotated[
    str | None, typer.Option("--run", metavar="NAME", help="Of RUN, where the store holds several.")
]
Price = Annotated[
    float | None, typer.Option(min=0.0, help="Price; default: an order of magnitude.")
]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write it there as JSON too.")
]


def plan(
    place: Annotated[str | None, typer.Argument(metavar="[RUN]", help=MEASURED)] = None,
    *,
    recipe: Recipe = "",
    set_: Set = None,
    run: RunOf = None,
    queries: Given = None,
    gpu: Annotated[str, typer.Option(help="The GPUs, where roles ask for some.")] = "H100-80GB",
    usd_per_gpu_hour: Price = None,
    compare: Others = None,
    json_: Json = None,
) -> None:
    """What a run will take: samples, tokens, bytes, requests, GPU-hours, cost; whether it fits.

    From the recipe, the data's sizes and the rates of RUN, or defaults that say so; without a
    recipe: the one of RUN, beside what it has come to. Exit code 2 where a role does not fit its
    GPU. Nothing is started.

    Example: mstar-ray plan --recipe cluster --queries train=180000 --compare prm.scorers=1,3
    """
    with ending():
        from jobs.plan import Asked, counts_of, measure, plan
        from pipeline.config.load import changed_config, stored_config

        measured = None if place is None else measure(place, run)
        if measured is not None and not recipe:
            config = changed_config(stored_config(measured.config), set_ or [])
        else:
            config = settings(recipe or "digits", set_, None, None)
        asked = Asked(gpu, usd_per_gpu_hour, counts_of(queries or []), compare or [])
        plan(config, measured, asked, json_)
