"""Where a run is found: by the folder it writes to, or by its store and its name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jobs.runtime.cli import did_you_mean, say
from pipeline.audit.garbage import runs_of
from pipeline.config.load import changed_config, stored_config
from pipeline.config.schema import Config
from pipeline.errors import BadConfig
from pipeline.run.stored import StoredRun
from pipeline.storage.store import Store, open_store


def store_folder(place: str) -> str:
    """The store that a place means: the place itself, or the one inside the folder of a run."""
    inside = Path(place) / "store"
    return str(inside) if "://" not in place and (inside / "runs").is_dir() else place


def find_store(place: str) -> Store:
    """The store at a place, which holds runs. Nothing is written.

    place: a folder, s3://bucket/prefix, or the folder of a run (`<run.out>/<run.name>`).

    Raises:
        BadConfig: it holds no run.
    """
    store = open_store(store_folder(place), say=say)
    if not runs_of(store):
        near = [] if "://" in place else sorted(Path(place).glob("*/store/runs"))
        runs = "".join(f"\n  {runs.parents[1]}" for runs in near)
        raise BadConfig(
            f"{place} is no store: it holds no run."
            + (f" These folders of runs are in it:{runs}" if runs else "")
        )
    return store


def find_run(place: str, run: str | None = None) -> StoredRun:
    """The run at a place that is meant: the one named, that of the folder, or the only one.

    place: as of `find_store`, or the folder of a run whose store lies beside it and holds others
    too, as an ablation's does.

    Raises:
        BadConfig: there is no such run, or there are several.
    """
    if run is None and _store_is_beside(place):
        place, run = str(Path(place).parent), Path(place).name
    store = find_store(place)
    runs = runs_of(store)
    if run is None:
        folder = Path(store.url).parent.name if Path(store.url).name == "store" else ""
        run = folder if folder in runs else runs[0]
        if len(runs) > 1 and run != folder:
            raise BadConfig(f"{store.url} holds these runs: {', '.join(runs)}. Name one with --run")
    if run not in runs:
        raise BadConfig(
            f"{store.url} holds no run {run!r}{did_you_mean(run, runs)} It holds {', '.join(runs)}"
        )
    return StoredRun(store, run)


def _store_is_beside(place: str) -> bool:
    folder = Path(place)
    return "://" not in place and (folder.parent / "store" / "runs" / folder.name).is_dir()


def run_config(place: str, run: str | None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of the run at a place, as its ledger has it, with overrides applied; it
    writes beside that run, and its objects lie in that store. Whether code of models may be run is
    never taken from a ledger.

    Raises:
        BadConfig: there is no such run, or an override cannot be used.
    """
    stored = find_run(place, run)
    name, url = stored.name, stored.store.url
    config = stored_config(stored.wires[0]["config"])
    folder = Path(url).parent
    out = [f"run.out={folder.parent}"] if folder.name == name else []
    here = [f"run.name={json.dumps(name)}", f"store.url={json.dumps(url)}", *out]
    policy = config.policy.model_copy(update={"trust_remote_code": False})
    config = config.model_copy(update={"policy": policy})
    return changed_config(config, [*overrides, *here])
