"""`mstar-ray evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.runtime.cli import ending
from jobs.runtime.options import BadRows, Place, Recipe, Run, Set, Store, run_or_recipe

POLICIES = "base, warmup, control, final, one of an iteration (evolve/3), or a model folder."
DATA = "Other data than the run's: a file or folder."
SPLIT = "Split; empty: the first test split, or all of --data."


def evaluate(
    place: Place = None,
    *,
    recipe: Recipe = "digits",
    set_: Set = None,
    run: Run = None,
    store: Store = None,
    policy: Annotated[str, typer.Option(help=POLICIES)] = "final",
    data: Annotated[str | None, typer.Option(metavar="PATH", help=DATA)] = None,
    split: Annotated[str, typer.Option(help=SPLIT)] = "",
    samples: Annotated[int, typer.Option(min=0, help="K of Pass@K; 0: greedy only.")] = 16,
    temperature: Annotated[float, typer.Option(min=0.01, help="T of the samples.")] = 1.0,
    bad_rows: BadRows = None,
) -> None:
    """How well a policy answers: greedy accuracy, Pass@K, and votes where the run has a PRM.

    Any policy of a run, or any model folder, with or without a run; on the run's data or any other.
    With the folder of a run (out/RUN) or a store, settings are the run's own; else those of the
    recipe. Writes OUT/RUN/evaluate/evaluation-POLICY-SPLIT.json, and with a process reward model
    the paper's Figure 2 as JSON and plots. The run's ledger is only read.

    Example: mstar-ray evaluate out/digits --policy evolve/3 --split test

    Without a run: mstar-ray evaluate --recipe own --policy my/model --data my/questions.jsonl
    """
    with ending():
        from jobs.evaluate import evaluate
        from jobs.runtime.bad_rows import bad_rows_to

        config = run_or_recipe(place, recipe, set_, run, store)
        with bad_rows_to(bad_rows):
            evaluate(config, policy, split, samples=samples, temperature=temperature, data=data)
