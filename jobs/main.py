"""`mstar-ray`: one command for each thing that a person does; this file is its list of contents.

A command is a module of `jobs/commands/`, which holds its options and its manual, and one word in
`COMMANDS`. It takes the same options as the others for the same thing, and only checks and passes
them on: the work is a function of a module of `jobs/`, which is imported when the command runs, so
that `--help` is there at once.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version as installed
from typing import Annotated, Any

import typer

from jobs.commands.ablate import ablate
from jobs.commands.audit import audit
from jobs.commands.bench import bench
from jobs.commands.benchmark import benchmark
from jobs.commands.chaos import chaos
from jobs.commands.config import config
from jobs.commands.data import data
from jobs.commands.diff import diff
from jobs.commands.evaluate import evaluate
from jobs.commands.export import export
from jobs.commands.gc import gc
from jobs.commands.plan import plan
from jobs.commands.prm import prm
from jobs.commands.replay import replay
from jobs.commands.report import report
from jobs.commands.run import run
from jobs.commands.status import status
from jobs.commands.trace import trace
from jobs.commands.validate import validate
from jobs.runtime.options import EXIT_CODES

# By their part of the help, in its order. `report`, `export` and `data` have commands of their own.
COMMANDS: dict[str, tuple[Callable[..., None] | typer.Typer, ...]] = {
    "Run": (run, validate, plan, prm, evaluate, benchmark, ablate, data, config),
    "Look at runs": (status, audit, trace, diff, replay, report, export, gc),
    "Measure this software": (bench, chaos),
}

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

for panel, commands in COMMANDS.items():
    for command in commands:
        if isinstance(command, typer.Typer):
            app.add_typer(command, rich_help_panel=panel, epilog=EXIT_CODES)
        else:
            app.command(rich_help_panel=panel, epilog=EXIT_CODES)(command)


def _version(wanted: bool) -> None:
    if wanted:
        from jobs.runtime.code_identity import code_hash, commit

        print(f"mstar-ray {installed('mstar-ray')}, code {code_hash()}, commit {commit()}")
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
