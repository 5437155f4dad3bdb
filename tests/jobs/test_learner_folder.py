"""No two drivers' learners share a folder, and what a dead one kept goes to the next."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jobs.runtime.learner_folder import learner_folder, scratch_folder

from jobs.runtime.prepare import out_folder
from jobs.runtime.single_round import StageFailed
from jobs.validate import validate
from pipeline.config.schema import Config
from tests.support.jobs import SCRIPTED, job_config
from tests.support.learner_bench import SIZES, Bench, FakeGroup, done, run
from tests.support.scripted import make_config

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import sys
from jobs.runtime.learner_folder import learner_folder, scratch_folder
from tests.support.jobs import SCRIPTED, job_config
from tests.support.scripted import make_config
config = make_config(run={"name": sys.argv[3], "out": sys.argv[1]})
which = {"learner": learner_folder, "validate": scratch_folder}[sys.argv[2]]
with which(config) as folder:
    for kind in ("policies", "checkpoints", "new"):
        (folder / kind / "a").mkdir(parents=True)
        (folder / kind / "a" / "file").write_text(kind)
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def driver(config: Config, which: str = "learner") -> Iterator[tuple[Path, Any]]:
    """Another process at work in a folder of the run's."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, config.run.out, which, config.run.name],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield Path(process.stdout.readline().strip()), process
        process.kill()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(run={"name": "r", "out": str(tmp_path)}, learn=SIZES)


def test_a_driver_beside_another_has_its_own_folder_and_inherits_from_the_dead(
    config: Config,
) -> None:
    with driver(config) as (theirs, process):
        with learner_folder(config) as mine:
            assert mine.parent == theirs.parent
            assert (theirs / "new" / "a" / "file").read_text() == "new"
            assert list(mine.iterdir()) == []
            (mine / "policies" / "b").mkdir(parents=True)
        process.kill()  # the fenced one
        process.wait()
        with learner_folder(config) as heir:
            assert [one.name for one in (heir / "policies").iterdir()] == ["a"]
            assert (heir / "checkpoints" / "a" / "file").read_text() == "checkpoints"
            assert [one for one in heir.parent.iterdir() if one.is_dir()] == [heir]
            assert not (heir / "new").exists()


def test_only_a_driver_that_came_to_its_end_leaves_nothing(config: Config) -> None:
    with suppress(KeyboardInterrupt), learner_folder(config) as interrupted:
        (interrupted / "policies" / "a").mkdir(parents=True)
        raise KeyboardInterrupt
    assert interrupted.is_dir()
    with learner_folder(config) as heir:
        assert (heir / "policies" / "a").is_dir()
        assert not interrupted.exists()
    assert list(heir.parent.iterdir()) == []


def test_what_a_killed_validation_left_goes_with_the_next(config: Config) -> None:
    with driver(config, "validate") as (theirs, process):
        with scratch_folder(config) as mine:
            assert theirs.is_dir()
        assert [one for one in mine.parent.iterdir() if one.name.startswith(mine.name)] == []
        process.kill()
        process.wait()
        with scratch_folder(config):
            assert not theirs.exists()


def test_a_learner_that_clears_away_harms_no_other(config: Config, tmp_path: Path) -> None:
    """A fenced driver is in the middle of writing a checkpoint; the one after it trains a job."""
    bench = Bench(tmp_path, config)
    job = bench.job("evolve/0", [bench.selection(0, 8)])
    written, go_on = threading.Event(), threading.Event()

    def wait(group: FakeGroup) -> None:
        whole = group.checkpoint

        def checkpoint(folder: Path, cursor: dict[str, Any]) -> dict[str, Any]:
            held = whole(folder, cursor)
            written.set()
            go_on.wait(60)
            return held

        if len(bench.groups) == 1:
            group.checkpoint = checkpoint  # type: ignore[method-assign]

    bench.prepare = wait
    with learner_folder(config) as one, learner_folder(config) as two:
        fenced, live = bench.learner(str(one)), bench.learner(str(two))
        fenced.submit(job, None)
        assert written.wait(60)
        end = done(run(live, job))
        go_on.set()
        assert done(run(fenced, job)).policy == end.policy


def test_validation_works_outside_the_run(tmp_path: Path) -> None:
    config = job_config(tmp_path)
    given: list[Path] = []

    def workers(program: Any, store: Any, dataset: Any, say: Any, folder: Path) -> Any:
        given.append(folder)
        assert folder.is_dir()
        raise StageFailed("nothing starts here")

    with driver(config) as (theirs, _):
        assert not validate(config, 2, print, replace(SCRIPTED, workers=workers))
        (folder,) = given
        assert folder.parent == (out_folder(config) / "validate").absolute()
        assert not folder.exists()
        assert (theirs / "new" / "a" / "file").is_file()
