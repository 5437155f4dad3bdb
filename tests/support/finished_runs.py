"""Finished runs of scripted roles in folders, as commands take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.driver.context import RunContext
from pipeline.driver.driver import drive
from pipeline.run.ledger import Ledger
from pipeline.simulation.workers import scripted_workers
from pipeline.storage.store import open_store
from tests.support.scripted import Clock, Quiet, make_config, make_program, with_base


def loop_run(folder: Path, seed: int, **changes: Any) -> Path:
    """A finished run of scripted roles; the folder it is in."""
    changes["run"] = {"name": f"loop-{seed}", "seed": seed, "out": str(folder)}
    config = make_config(**changes)
    config = with_base(config, folder / f"base-{seed}")
    return driven_to(config, folder / config.run.name)


def driven_to(config: Config, folder: Path, until: Any = lambda state: False) -> Path:
    """A run in a folder, driven to its end or to a state."""
    program = make_program(config)
    store = open_store(folder / "store")
    workers = scripted_workers(store, program).workers
    ledger = Ledger(store, config.run.name)
    drive(RunContext(program, store, ledger, workers, Quiet(), sleep=Clock().sleep), until)
    return folder
