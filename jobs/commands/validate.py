"""`mstar-ray validate`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.runtime.cli import ending
from jobs.runtime.options import BadRows, Recipe, Run, Set, Store, settings


def validate(
    recipe: Recipe = "digits",
    set_: Set = None,
    run: Run = None,
    store: Store = None,
    bad_rows: BadRows = None,
    *,
    samples: Annotated[int, typer.Option(min=1, help="Responses to each query, at most.")] = 4,
) -> None:
    """Try five of your queries and your model in every stage, before anything is spent.

    Prints prompts, answers, grades and rewards, whether engine, processor and learner agree, and a
    verdict; 1 when it says that this cannot be run.

    Example: mstar-ray validate --set data.path=my/questions.jsonl --set policy.path=my/model
    """
    with ending():
        from functools import partial

        from jobs.runtime.bad_rows import bad_rows_to
        from jobs.validate import validate

        with bad_rows_to(bad_rows):
            config = settings(recipe, set_, run, store)
            good = validate(config, samples, partial(print, flush=True))
    raise typer.Exit(0 if good else 1)
