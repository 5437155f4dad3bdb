"""`mstar-ray`: one command for each thing that a person does; this file is its manual.

Every command takes the same options for the same thing, and only checks and passes them on: the
work is a function of the module of the same name, which is imported when its command runs, so that
`--help` is there at once.
"""

from __future__ import annotations

from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.runtime.cli import ending, say
from jobs.runtime.options import (
    BadRows,
    Folders,
    Place,
    Recipe,
    Run,
    RunInStore,
    Set,
    Store,
    StoreOption,
    TakeOver,
    one_place,
)

if TYPE_CHECKING:
    from pipeline.config.schema import Config

EXIT_CODES = (
    "Exit codes: 0 done; 1 failure (or: an audit, a comparison, a verdict is not good); 2 a person "
    "has to mend something, which the message names; 130 interrupted, the same command goes on."
)

GOES_ON = "interrupted; the same command goes on from here"

RUNS, LOOKS, COSTS = "Run", "Look at runs", "Measure this software"

app = typer.Typer(
    name="mstar-ray",
    help="Self-evolving training for multimodal reasoning (M-STaR): vLLM generates, a grader "
    "grades, a process reward model scores, DeepSpeed learns.",
    epilog=EXIT_CODES,
    add_completion=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

report = typer.Typer(no_args_is_help=True)

app.add_typer(report, name="report", rich_help_panel=LOOKS, epilog=EXIT_CODES)

export = typer.Typer(no_args_is_help=True)

app.add_typer(export, name="export", rich_help_panel=LOOKS, epilog=EXIT_CODES)


def _settings(recipe: str, changes: list[str] | None, run: str | None, store: str | None) -> Config:
    from json import dumps  # JSON is YAML: a name of digits stays a name

    from jobs.runtime.recipes import load_recipe
    from jobs.runtime.stores import store_folder
    from pipeline.config.checks import unread

    named = [f"run.name={dumps(run)}"] if run is not None else []
    named += [f"store.url={dumps(store_folder(store))}"] if store is not None else []
    config = load_recipe(recipe, [*(changes or []), *named])
    for line in unread(config):
        say(line)
    return config


# --- run ----------------------------------------------------------------------------------------


@app.command(rich_help_panel=RUNS, epilog=EXIT_CODES)
def run(
    recipe: Recipe = "digits",
    set_: Set = None,
    run: Run = None,
    store: Store = None,
    bad_rows: BadRows = None,
    *,
    take_over: TakeOver = False,
) -> None:
    """Run the self-evolving loop, or go on with a run that was interrupted.

    What it leaves lies in OUT/RUN (out/digits): summary.json, TensorBoard files, and the store
    unless it is elsewhere. Started again, it goes on; a finished run says so.

    Example: mstar-ray run --recipe digits --run mine --set run.seed=1
    """
    with ending(GOES_ON):
        from jobs.run import evolve
        from jobs.runtime.bad_rows import bad_rows_to

        with bad_rows_to(bad_rows):
            evolve(_settings(recipe, set_, run, store), take_over=take_over)


@app.command(rich_help_panel=RUNS, epilog=EXIT_CODES)
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
            config = _settings(recipe, set_, run, store)
            good = validate(config, samples, partial(print, flush=True))
    raise typer.Exit(0 if good else 1)


@app.command(rich_help_panel=RUNS, epilog=EXIT_CODES)
def prm(
    recipe: Recipe = "digits",
    set_: Set = None,
    run: Run = None,
    store: Store = None,
    take_over: TakeOver = False,
) -> None:
    """Build a run's process reward model, and show its card.

    This is the run up to where its process reward model is judged; `mstar-ray run` goes on from
    there. The card is written to OUT/RUN/prm_card.json.

    Example: mstar-ray prm --recipe digits
    """
    with ending(GOES_ON):
        from jobs.prm import prm

        prm(_settings(recipe, set_, run, store), take_over=take_over)


@app.command(rich_help_panel=RUNS, epilog=EXIT_CODES)
def evaluate(
    place: Place = None,
    *,
    recipe: Recipe = "digits",
    set_: Set = None,
    run: Run = None,
    store: Store = None,
    policy: Annotated[
        str,
        typer.Option(
            help="base, warmup, control, final, one of an iteration (evolve/3), or a model folder."
        ),
    ] = "final",
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Other data than the run's: a file or folder."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split; empty: the validation split, or all of --data.")
    ] = "",
    samples: Annotated[int, typer.Option(min=0, help="K of Pass@K; 0: greedy only.")] = 16,
    temperature: Annotated[float, typer.Option(min=0.01, help="T of the samples.")] = 1.0,
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
        from jobs.runtime.stores import run_config

        if place is None:
            config = _settings(recipe, set_, run, store)
        else:
            config = run_config(one_place(place, store), run, set_ or [])
        evaluate(config, policy, split, samples=samples, temperature=temperature, data=data)


@app.command(rich_help_panel=RUNS, epilog=EXIT_CODES)
def config(
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "--config",
            metavar="NAME|FILE",
            help="Print this recipe with every setting, as YAML.",
        ),
    ] = None,
    set_: Set = None,
    run: Run = None,
    store: Store = None,
) -> None:
    """Print every setting with its default and meaning; with --recipe or --set, what they come to.

    Example: mstar-ray config --recipe digits --set generate.samples=16
    """  # fmt: skip
    with ending():
        from jobs.config import manual, resolved

        if recipe is None and not (set_ or run or store):
            print("\n".join(manual()))
        else:
            print(resolved(_settings(recipe or "digits", set_, run, store)), end="")


# --- look at runs -------------------------------------------------------------------------------


@app.command(rich_help_panel=LOOKS, epilog=EXIT_CODES)
def status(place: Place = None, store: StoreOption = None, run: RunInStore = None) -> None:
    """What a run is doing and has done, from its store alone; without a store, every run in ./out.

    A driver at work is not disturbed: nothing is written, no lease is taken.

    Example: mstar-ray status out/digits
    """
    with ending():
        from jobs.status import overview, status

        if (place, store, run) == (None, None, None):
            overview(Path("out"))
        else:
            status(one_place(place, store), run)


@app.command(rich_help_panel=LOOKS, epilog=EXIT_CODES)
def audit(
    place: Place = None,
    store: StoreOption = None,
    run: RunInStore = None,
    *,
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

        clean = audit_run(one_place(place, store), run)
    raise typer.Exit(0 if clean else 1)


@app.command(rich_help_panel=LOOKS, epilog=EXIT_CODES)
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


@app.command(rich_help_panel=LOOKS, epilog=EXIT_CODES)
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The folder of a run; a run of --store.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    store: Annotated[
        str | None, typer.Option(metavar="STORE", help="A and B are runs in this store.")
    ] = None,
    other: Annotated[
        str | None, typer.Option(metavar="STORE", help="B is a run in this one.")
    ] = None,
) -> None:
    """The first step at which two runs part, and in what they differ; 1 when they do.

    Example: mstar-ray diff out/digits out/again
    """
    with ending():
        from jobs.diff import diff

        same = diff((store or a, a if store else None), (other or store or b,
                    b if other or store else None))  # fmt: skip
    raise typer.Exit(0 if same else 1)


Out = Annotated[Path, typer.Option(help="The file of rows that is written.")]


@report.callback()
def _report() -> None:
    """Rows, tables and pooled differences of finished runs of several seeds."""


@report.command(epilog=EXIT_CODES)
def loop(runs: Folders, out: Out = Path("out/report/loop.json")) -> None:
    """Warm-up, control and final of runs of the self-evolving loop.

    Example: mstar-ray report loop out/seed0 out/seed1 out/seed2
    """
    with ending():
        from jobs.report import loop

        loop(runs, out)


@report.command("prm", epilog=EXIT_CODES)
def report_prm(
    *,
    top2: Annotated[list[str], typer.Option(help="Runs that keep the two best of a query.")],
    random2: Annotated[list[str], typer.Option(help="Runs that keep two at random.")],
    all_: Annotated[list[str], typer.Option("--all", help="Runs that keep all correct ones.")],
    data: Annotated[
        Path | None, typer.Option(help="The digits data; default: OUT/data/digits.")
    ] = None,
    out: Out = Path("out/report/prm.json"),
) -> None:
    """What the process reward model was worth: runs of the same seeds with and without it.

    Example: mstar-ray report prm --top2 out/top2-0 --random2 out/random2-0 --all out/all-0
    """
    with ending():
        from jobs.report import prm

        prm(top2, random2, all_, data, out)


@export.callback()
def _export() -> None:
    """Policies and selected responses of a run, as files that a person can open."""


@export.command("policy", epilog=EXIT_CODES)
def export_policy(
    place: Place = None,
    store: StoreOption = None,
    run: RunInStore = None,
    *,
    policy: Annotated[
        str, typer.Option(help="base, warmup, control, final, or one of an iteration: evolve/3.")
    ] = "final",
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder that is made.")],
) -> None:
    """A policy as a folder for `from_pretrained` and `vllm serve`, with a model card of its own.

    A finished run has written OUT/RUN/final already.

    Example: mstar-ray export policy out/digits --policy evolve/3 --to models/evolve-3
    """
    with ending():
        from jobs.export import policy as write_policy

        write_policy(one_place(place, store), run, policy, to)


@export.command("selected", epilog=EXIT_CODES)
def export_selected(
    place: Place = None,
    store: StoreOption = None,
    run: RunInStore = None,
    *,
    phase: Annotated[
        str | None, typer.Option(help="warmup, or an iteration: evolve/3. Default: all.")
    ] = None,
    to: Annotated[Path, typer.Option(metavar="FILE", help="The JSONL file that is written.")],
) -> None:
    """The responses that a run trained on, in words: question, images, response, answer, reward.

    One JSON object a line; `sample` is the name that `mstar-ray trace` takes, and `images` are
    files of the store.

    Example: mstar-ray export selected out/digits --phase evolve/0 --to selected.jsonl
    """
    with ending():
        from jobs.export import selected

        selected(one_place(place, store), run, phase, to)


@app.command(rich_help_panel=LOOKS, epilog=EXIT_CODES)
def gc(
    place: Place = None,
    store: StoreOption = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is listed.")] = False,
    min_age_h: Annotated[float, typer.Option(min=0.0, help="Hours; younger is kept.")] = 24.0,
) -> None:
    """List what no run of a store needs; with --delete, remove it.

    Refuses while a driver lives, and where a ledger is damaged: nobody knows what that one named.

    Example: mstar-ray gc out/digits --delete
    """
    with ending("interrupted; what was removed stays removed, start it again"):
        from jobs.gc import gc

        gc(one_place(place, store), min_age_h, delete=delete)


# --- measure this software ----------------------------------------------------------------------


@app.command(rich_help_panel=COSTS, epilog=EXIT_CODES)
def bench(
    *,
    recipe: Recipe = "digits",
    set_: Set = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="ROW", help="A row; as often as wanted.")
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="Try the benches out: figures mean nothing.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that count.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/bench"),
) -> None:
    """Speed and memory beside the bare engines; 1 when a bar is missed.

    Example: mstar-ray bench --only generation
    """
    with ending():
        from jobs.bench import bench

        reached = bench(recipe, set_ or [], only or [], small=small, rounds=rounds, out=out)
    raise typer.Exit(0 if reached else 1)


@app.command(rich_help_panel=COSTS, epilog=EXIT_CODES)
def chaos(
    *,
    recipe: Recipe = "chaos",
    set_: Set = None,
    kills: Annotated[int | None, typer.Option(min=1, help="How many; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the plan: order, delays, moments.")] = 0,
    examples: Annotated[int, typer.Option(min=0, help="Of the driver's state machine.")] = 5000,
    controls: Annotated[bool, typer.Option(help="Also runs that must come out different.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for result, runs and logs.")] = Path("out"),
) -> None:
    """Kill a run on a local S3 server at every stage, and compare what it made; 1 when it differs.

    Example: mstar-ray chaos --kills 3
    """
    with ending():
        from jobs.chaos.__main__ import run_chaos

        holds = run_chaos(recipe, set_ or [], kills, seed, examples, controls=controls, out=out)
    raise typer.Exit(0 if holds else 1)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mstar-ray {installed('mstar-ray')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(*command: str) -> Any:
    """The console script; `python -m jobs.X` is main("X")."""
    import sys

    return app([*command, *sys.argv[1:]], prog_name="mstar-ray")
