"""`mstar-ray benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.runtime.cli import ending
from jobs.runtime.options import GOES_ON, Place, Recipe, Run, Set, Store, pairs, run_or_recipe

POLICIES = "base, warmup, control, final, evolve/3, a model folder; with commas."
BENCHMARKS = (
    "Benchmarks, with commas: mathvista, m3cot, mmstar-r, mmbench-r, ai2d, mathverse, mmmu."
)
PLACE = "The place of one benchmark; repeatable."


def benchmark(
    place: Place = None,
    *,
    recipe: Recipe = "digits",
    set_: Set = None,
    run: Run = None,
    store: Store = None,
    policy: Annotated[str, typer.Option(help=POLICIES)] = "final",
    on: Annotated[str, typer.Option(help=BENCHMARKS)] = "mathvista,m3cot,mmstar-r,mmbench-r,ai2d",
    folder: Annotated[
        Path, typer.Option("--from", metavar="FOLDER", help="Where the benchmarks' data lie.")
    ] = Path("benchmarks"),
    data: Annotated[list[str] | None, typer.Option(metavar="NAME=PATH", help=PLACE)] = None,
) -> None:
    """Policies on published benchmarks, each by its own prompt and rule, without a judge.

    Greedy responses, through a run's engines and store: what is there already is not sampled again.
    Two figures for each: strict (an answer that cannot be read is wrong), and the published rule's;
    for MathVista also that of lmms-eval's rule for responses that reason first.
    Writes OUT/RUN/evaluate/benchmark-POLICY-NAME.json and benchmark.md. docs/benchmarks.md has the
    rules, and what the data may be called.

    Example: mstar-ray benchmark out/mine --policy base,warmup,final --on mathvista,m3cot
    """
    with ending(GOES_ON):
        from jobs.benchmark import benchmark

        config = run_or_recipe(place, recipe, set_, run, store)
        given = pairs("--data", data, "NAME=PATH, as in mathvista=data/testmini.json")
        places = {name: Path(path) for name, path in given.items()}
        benchmark(config, policy, on, folder, places)
