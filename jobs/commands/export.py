"""`mstar-ray export`: policy, prm, selected, labels, outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.runtime.cli import ending
from jobs.runtime.options import (
    EXIT_CODES,
    Place,
    RunInStore,
    StoreOption,
    TrustRemoteCode,
    one_place,
)

ToFolder = Annotated[Path, typer.Option(metavar="FOLDER", help="The folder that is made.")]
PushToHub = Annotated[
    str | None,
    typer.Option(
        metavar="ORG/NAME",
        help="Also upload it to the Hugging Face Hub, into a private repository if it is new.",
    ),
]

export = typer.Typer(name="export", no_args_is_help=True)


@export.callback()
def _export() -> None:
    """Models, selected responses and step labels of a run, as files that others can open."""


@export.command("policy", epilog=EXIT_CODES)
def export_policy(
    place: Place = None,
    store: StoreOption = None,
    run: RunInStore = None,
    *,
    policy: Annotated[
        str, typer.Option(help="base, warmup, control, final, or one of an iteration: evolve/3.")
    ] = "final",
    to: ToFolder,
    push_to_hub: PushToHub = None,
) -> None:
    """A policy as a folder for `from_pretrained` and `vllm serve`, with a model card of its own.

    A finished run has written OUT/RUN/final already.

    Example: mstar-ray export policy out/digits --policy evolve/3 --to models/evolve-3
    """
    with ending():
        from jobs.export import model

        model(one_place(place, store), run, policy, to, push_to_hub)


@export.command("prm", epilog=EXIT_CODES)
def export_prm(
    place: Place = None,
    store: StoreOption = None,
    run: RunInStore = None,
    *,
    to: ToFolder,
    push_to_hub: PushToHub = None,
) -> None:
    """The process reward model that a run built, as a folder with a model card of its own.

    Example: mstar-ray export prm out/digits --to models/prm
    """
    with ending():
        from jobs.export import model

        model(one_place(place, store), run, "prm", to, push_to_hub)


@export.command("selected", epilog=EXIT_CODES)
def export_selected(
    place: Place = None,
    store: StoreOption = None,
    run: RunInStore = None,
    *,
    phase: Annotated[
        str | None, typer.Option(help="warmup, or an iteration: evolve/3. Default: all.")
    ] = None,
    form: Annotated[
        Literal["jsonl", "parquet", "llava", "verl"],
        typer.Option("--as", help="What is written: see below."),
    ] = "jsonl",
    to: Annotated[
        Path, typer.Option(metavar="PATH", help="The file that is written; for llava a folder.")
    ],
) -> None:
    """The responses that a run trained on, in words: question, images, response, answer, reward.

    jsonl: one object a line; `images` are files of the store. parquet: text and embedded images,
    for `datasets`. llava: data.json and images/. verl: rows for verl and EasyR1, the response as
    the answer of extra_info. `sample` is the name that `mstar-ray trace` takes.

    Example: mstar-ray export selected out/digits --phase evolve/0 --to selected.jsonl
    """
    with ending():
        from jobs.export import selected

        selected(one_place(place, store), run, phase, to, form)


@export.command("labels", epilog=EXIT_CODES)
def export_labels(
    place: Place = None,
    store: StoreOption = None,
    run: RunInStore = None,
    *,
    trust_remote_code: TrustRemoteCode = False,
    to: ToFolder,
) -> None:
    """The Monte-Carlo values of steps that a process reward model was built from.

    Written are labels.jsonl, in the raw form of VisualPRM400K, and images/. `num_mc_total` is 0 for
    a step that was not measured because one before it had the value 0.

    Example: mstar-ray export labels out/digits --to labels
    """
    with ending():
        from jobs.export import labels

        labels(one_place(place, store), run, to, trusted=trust_remote_code)


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
