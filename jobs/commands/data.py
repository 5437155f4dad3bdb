"""`mstar-ray data inspect` and `mstar-ray data convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.runtime.bad_rows import bad_rows_to
from jobs.runtime.cli import ending
from jobs.runtime.options import EXIT_CODES, BadRows

data = typer.Typer(name="data", no_args_is_help=True)

DataPath = Annotated[
    Path, typer.Argument(metavar="PATH", help="A data file, or a folder of files named by split.")
]

Format = Annotated[
    str, typer.Option("--format", help="auto: by its columns; own; or the name of a form.")
]


@data.callback()
def _data() -> None:
    """What a data set is, and data of any published form in our own."""


@data.command(epilog=EXIT_CODES)
def inspect(
    path: DataPath,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="A test set whose pictures are looked for; repeatable."),
    ] = None,
    format_: Format = "auto",
    bad_rows: BadRows = None,
) -> None:
    """What a data set is: form, splits, answer types, images, problems, equal pictures.

    Pictures are compared by what they show, so one that was saved anew is found. Nothing is left
    behind. 0 also where rows cannot be used: they are counted by reason.

    Example: mstar-ray data inspect train_samples_all_tuning.json --against testmini.parquet
    """
    with ending(), bad_rows_to(bad_rows):
        from jobs.data import inspect

        inspect(path, against or [], format_, bad_rows)


@data.command(epilog=EXIT_CODES)
def convert(
    path: DataPath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder that is written.")],
    without: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Leave out what shows a picture of this test set."),
    ] = None,
    *,
    split: Annotated[
        str,
        typer.Option(
            help="given: its own, else set aside by image; mstar: the paper's; or the name of the "
            "one split that all rows are put into."
        ),
    ] = "given",
    split_seed: Annotated[int, typer.Option(min=0, help="Redraws what is set aside.")] = 0,
    max_bad_rows: Annotated[int, typer.Option(min=0, help="Rows that may be left out.")] = 0,
    format_: Format = "auto",
    bad_rows: BadRows = None,
) -> None:
    """A data set of any published form as parquet and image files in our own.

    Example: mstar-ray data convert train_samples_all_tuning.json mathv --split mstar
    """
    with ending(), bad_rows_to(bad_rows):
        from jobs.data import convert

        convert(path, out, without or [], split=split, split_seed=split_seed,
                max_bad_rows=max_bad_rows, format_=format_)  # fmt: skip
