"""Options of `mstar-ray` that mean the same in every command that has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.runtime.cli import say
from pipeline.errors import BadConfig

if TYPE_CHECKING:
    from pipeline.config.schema import Config

EXIT_CODES = (
    "Exit codes: 0 done; 1 failure (or: an audit, a comparison, a verdict is not good); 2 a person "
    "has to mend something, which the message names; 130 interrupted, the same command goes on."
)

GOES_ON = "interrupted; the same command goes on from here"

Recipe = Annotated[
    str,
    typer.Option(
        "--recipe", "--config", metavar="NAME|FILE",
        help="Settings: a recipe of jobs/recipes by name, or a YAML file.",
    ),
]  # fmt: skip

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE",
        help="Another value for one setting; as often as wanted. `mstar-ray config` lists them.",
    ),
]  # fmt: skip

Run = Annotated[
    str | None, typer.Option("--run", metavar="NAME", help="The run; as --set run.name=NAME.")
]

Store = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="STORE",
        help="Where its objects lie: a folder or s3://bucket/prefix; as --set store.url=STORE. "
        "Default: OUT/RUN/store.",
    ),
]  # fmt: skip

TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Stop a driver that still works on this run.")
]

BadRows = Annotated[
    Path | None,
    typer.Option(
        "--bad-rows", metavar="FILE", help="Write every bad row of the data here, as JSONL."
    ),
]

Place = Annotated[
    str | None,
    typer.Argument(metavar="[STORE]", help="A store, or the folder of a run (out/RUN)."),
]

StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="STORE", help="The same, as an option.")
]

RunInStore = Annotated[
    str | None,
    typer.Option("--run", metavar="NAME", help="The run; needed where the store holds several."),
]

TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the code that lies in the run's policies, which you have read. Needed only of a "
        "run with policy.trust_remote_code, and never taken from its ledger.",
    ),
]

Folders = Annotated[
    list[str], typer.Argument(metavar="RUN", help="Folders of finished runs, one a seed.")
]


def one_place(argument: str | None, option: str | None) -> str:
    """The store that is meant, said in either way."""
    given = [place for place in (argument, option) if place is not None]
    if len(given) != 1:
        raise BadConfig("name one store, or the folder of one run: out/RUN, or --store STORE")
    return given[0]


def run_or_recipe(
    place: str | None, recipe: str, changes: list[str] | None, run: str | None, store: str | None
) -> Config:
    """The configuration of the run at a place or, without one, what the other options come to.

    Raises:
        BadConfig: as `settings`; or there is no such run.
    """
    from jobs.runtime.stores import run_config

    if place is None:
        return settings(recipe, changes, run, store)
    return run_config(one_place(place, store), run, changes or [])


def pairs(option: str, given: Sequence[str] | None, example: str) -> dict[str, str]:
    """The values of an option that is given as NAME=VALUE, as often as wanted.

    Raises:
        BadConfig: one of them is not; it is told with `example`.
    """
    found = {}
    for text in given or ():
        name, _, value = text.partition("=")
        if not name or not value or name in found:
            raise BadConfig(f"{option} {text}: write it as {example}, each name once")
        found[name] = value
    return found


def settings(recipe: str, changes: list[str] | None, run: str | None, store: str | None) -> Config:
    """The configuration that these options come to; settings that nothing reads are said.

    Raises:
        BadConfig: the recipe is unknown, or a setting is unknown or impossible.
    """
    from json import dumps  # JSON is YAML: a name of digits stays a name

    from jobs.runtime.cluster_job import on_its_cluster
    from jobs.runtime.recipes import load_recipe
    from jobs.runtime.stores import store_folder
    from pipeline.config.unread import unread

    named = [f"run.name={dumps(run)}"] if run is not None else []
    named += [f"store.url={dumps(store_folder(store))}"] if store is not None else []
    config = on_its_cluster(load_recipe(recipe, [*(changes or []), *named]))
    for line in unread(config):
        say(f"warning: {line}")
    return config
