"""The command line and the main job, as tests call them: over scripted roles, without Ray."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from jobs.main import app
from jobs.runtime.world import Parts
from jobs.validate import Models
from pipeline.config.fields import to_dict
from pipeline.config.load import config_from_dict
from pipeline.config.schema import Config
from pipeline.run.spec import RunSpec
from pipeline.simulation.workers import scripted_workers
from pipeline.stages.workers import Workers
from pipeline.storage.store import Store
from tests.support.scripted import Clock, base_folder, make_config


def mstar(*arguments: str | Path) -> Any:
    """`mstar-ray` with these arguments: exit_code and output."""
    return CliRunner().invoke(app, [str(one) for one in arguments])


def run_command(config: Config, folder: Path, *overrides: str) -> Any:
    """`mstar-ray run` with a recipe of this configuration, which is written into a folder."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(config)))
    changes = [part for override in overrides for part in ("--set", override)]
    return mstar("run", "--recipe", recipe, *changes)


def refused(config: Config, folder: Path, *overrides: str) -> str:
    """What `mstar-ray run` says of settings that it refuses: a person has to mend them."""
    done = run_command(config, folder, *overrides)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return str(done.output)


def write_data(folder: Path) -> Path:
    """Questions without images: 12 to train on, 5 to validate, 5 to test."""
    path = folder / "data.jsonl"
    sizes = {"train": 12, "validation": 5, "test": 5}
    rows = [
        {
            "query_id": f"{split}-{i}",
            "question": f"{split}: what is {i}?",
            "answer": str(i),
            "answer_type": "number",
            "split": split,
        }
        for split, size in sizes.items()
        for i in range(size)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def job_config(folder: Path, store: str | None = None, **sections: Any) -> Config:
    """Settings of a run in a folder, with `write_data` and a policy that only scripted roles take.

    store: its store's URL; None: inside its outputs.
    """
    plain = to_dict(make_config(**sections))
    plain["run"] |= {"out": str(folder / "out"), "console": "plain"}
    plain["store"]["url"] = store
    plain["data"]["path"] = str(write_data(folder))
    plain["policy"]["path"] = str(base_folder(folder / "base"))
    return config_from_dict(plain)


@contextmanager
def _scripted(program: RunSpec, store: Store, *_: Any) -> Iterator[Workers]:
    yield scripted_workers(store, program).workers


class NoLock:
    """Where no other driver is, nobody has to be kept out."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def take(self, **_: Any) -> None:
        pass

    def check(self) -> None:
        pass


SCRIPTED = Parts(_scripted, NoLock, lambda config: None, lambda *_, **__: None, sleep=Clock().sleep)


class Words:
    """Where the processor stands: prompts and ids that nothing is asked of."""

    def prompt(self, text: str, images: int, system: str = "") -> str:
        return text

    def input_ids(self, prompt: str, images: Sequence[str], open_image: Any) -> tuple[int, ...]:
        return tuple(prompt.encode())


def headed(policy: Path, folder: Path, *, likelihood: bool) -> Path:
    """Where a head is put beside a policy's weights: a folder without any."""
    shutil.copytree(policy, folder)
    (folder / "head.txt").write_text(f"zeros, likelihood: {likelihood}")
    return folder


FAKE_MODELS = Models(lambda folder, settings: Words(), headed)  # type: ignore[arg-type,return-value]
