"""Where an ablation's runs and results lie, and what is refused before any of them is started."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.benches.record import machine
from jobs.runtime.cluster_job import on_its_cluster
from jobs.runtime.prepare import DIGITS, data_path, load_data, open_run_store, versions
from jobs.runtime.world import Say, check_here
from pipeline.ablation.cells import Cell, RunOfCells
from pipeline.ablation.figures import Truths, commit_of, figures
from pipeline.ablation.results import Result, read_results, with_results, written
from pipeline.config.schema import Config
from pipeline.datasets.dataset import check_writable
from pipeline.errors import BadConfig, BadData
from pipeline.grading.grade import grader_version
from pipeline.reports.seeds import Finished
from pipeline.tasks.digits.build import read_truth


def placed(cell: Cell) -> Cell:
    """The same cell, whose run has the store of all others and leaves there what they may share."""
    config = cell.config
    url = config.store.url or str(Path(config.run.out).absolute() / "store")
    changes = {
        "store": config.store.model_copy(update={"url": url}),
        "learn": config.learn.model_copy(update={"keep_checkpoints": True}),
    }
    return replace(
        cell,
        config=on_its_cluster(config.model_copy(update=changes)),
        steps_of=None if cell.steps_of is None else placed(cell.steps_of),
    )


def checked(runs: Sequence[RunOfCells], say: Say) -> None:
    """Refuse what cannot be run, by cell, before the first run is started.

    Raises:
        BadConfig, BadData: the machine or the data do not hold what a run asks for.
    """
    read: dict[str, Config] = {}
    for run in runs:
        try:
            check_here(run.config)
        except (BadConfig, BadData) as error:
            raise BadConfig(f"{run} cannot be run: {error}") from error
        read.setdefault(run.config.data.model_dump_json(), run.config)
    for config in read.values():
        load_data(config, say)


def present_versions(config: Config) -> dict[str, str]:
    """The versions that a run begun now would have, as far as they are known before."""
    return {
        "commit": commit_of(versions()),
        "grader": grader_version(config.prompt.shapes),
    }


class ResultsFile:
    """The JSON file of results. Several commands may add to it at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Result]:
        """
        Raises:
            BadData: it is there and holds no results.
        """
        if not self.path.exists():
            return []
        return read_results(self.path.read_text("utf-8"), str(self.path))

    def put(self, new: Sequence[Result]) -> None:
        """Add results, in place of older ones of their cells."""
        with self._alone():
            text = written(with_results(self.read(), new))
            beside = self.path.with_suffix(".new")
            beside.write_text(text, "utf-8")
            os.replace(beside, self.path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else writes meanwhile."""
        check_writable(self.path.parent)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def finished_run(config: Config, say: Say) -> Finished | None:
    """The run of a configuration, where it is finished."""
    store = open_run_store(config, say)
    run = Finished(store, config.run.name)
    return None if run.state.finished is None else run


def results_of(run: RunOfCells, done: Finished, say: Say) -> list[Result]:
    """The results of all cells of a finished run."""
    truth, hardware = _truth(run.config, say), _hardware(run.config)
    found: dict[str, dict[str, Any]] = {}
    for cell in run.cells:
        if cell.policy not in found:
            found[cell.policy] = figures(done, cell.policy, truth)
    return [
        Result(
            table=cell.table, row=cell.row, seed=cell.seed, recipe=cell.recipe, run=cell.run,
            hardware=hardware, **found[cell.policy],
        )
        for cell in run.cells
    ]  # fmt: skip


def _truth(config: Config, say: Say) -> Truths | None:
    """What the process checker needs; only the built-in task has it."""
    return read_truth(data_path(config, say)) if config.data.path == DIGITS else None


def _hardware(config: Config) -> str:
    here = machine()
    text = f"{here['cpus']} x {here['cpu']}"
    if config.cluster.gpus_per_engine or config.cluster.gpus_per_rank:
        text += ", with GPUs"
    if config.cluster.address is None:
        return text
    return f"a Ray cluster, driven from {text}"
