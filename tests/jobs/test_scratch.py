"""A validation leaves nothing, and what a killed one left goes with the next."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.runtime.prepare import out_folder
from jobs.runtime.scratch import scratch_folder
from jobs.runtime.single_round import StageFailed
from jobs.validate import validate
from pipeline.config.schema import Config
from tests.support.jobs import SCRIPTED, job_config
from tests.support.learner_bench import SIZES
from tests.support.scripted import make_config

ROOT = Path(__file__).resolve().parents[2]

VALIDATION = """
import sys
from jobs.runtime.scratch import scratch_folder
from tests.support.scripted import make_config
config = make_config(run={"name": sys.argv[2], "out": sys.argv[1]})
with scratch_folder(config) as folder:
    (folder / "model").mkdir()
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def validation(config: Config) -> Iterator[tuple[Path, Any]]:
    """Another process at work in a folder of the run's."""
    with subprocess.Popen(
        [sys.executable, "-c", VALIDATION, config.run.out, config.run.name],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield Path(process.stdout.readline().strip()), process
        process.kill()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(run={"name": "r", "out": str(tmp_path)}, learn=SIZES)


def test_what_a_killed_validation_left_goes_with_the_next(config: Config) -> None:
    with validation(config) as (theirs, process):
        with scratch_folder(config) as mine:
            assert theirs.is_dir()
        assert [one for one in mine.parent.iterdir() if one.name.startswith(mine.name)] == []
        process.kill()
        process.wait()
        with scratch_folder(config):
            assert not theirs.exists()


def test_validation_makes_its_models_outside_the_run_and_leaves_none(tmp_path: Path) -> None:
    config = job_config(tmp_path)
    seen: list[Path] = []

    def workers(program: Any, store: Any, dataset: Any, say: Any) -> Any:
        seen.extend(path for path in (out_folder(config) / "validate").iterdir() if path.is_dir())
        raise StageFailed("nothing starts here")

    assert not validate(config, 2, print, replace(SCRIPTED, workers=workers))
    (folder,) = seen
    assert not folder.exists()
