"""`mstar-ray export policy`, `mstar-ray export selected` and `mstar-ray export outputs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.runtime.cli import ending
from jobs.runtime.options import EXIT_CODES, Place, RunInStore, StoreOption, one_place

export = typer.Typer(name="export", no_args_is_help=True)


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


@export.command("outputs", epilog=EXIT_CODES)
def export_outputs(
    place: Place = None,
    store: StoreOption = None,
    run: RunInStore = None,
    *,
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder that is made.")],
) -> None:
    """Summary, cards, TensorBoard files and evaluations of a run whose driver was elsewhere.

    A run whose store is not in OUT/RUN puts them there as it goes on.

    Example: mstar-ray export outputs s3://bucket/prefix --run mine --to mine
    """
    with ending():
        from jobs.export import outputs

        outputs(one_place(place, store), run, to)
