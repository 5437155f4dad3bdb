"""A run on a store behind S3: what it says of it, and where its keys never are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from cluster.s3 import LocalS3
from jobs.run import evolve
from jobs.runtime.world import run_store
from pipeline.config.fields import to_dict
from pipeline.config.load import config_from_dict
from pipeline.config.schema import Config
from tests.jobs.test_run import script_main_job, write_data
from tests.support.s3_servers import BUCKET, bucket_store, rclone_server
from tests.support.scripted import base_folder, make_config


@pytest.fixture
def rclone(tmp_path: Path) -> Iterator[LocalS3]:
    with rclone_server(tmp_path / "s3") as server:
        yield server


def on(config: Config, url: str | None, out: Path) -> Config:
    plain = to_dict(config)
    plain["store"]["url"] = url
    plain["run"] |= {"out": str(out), "console": "plain"}
    return config_from_dict(plain)


def test_a_server_that_ignores_conditions_is_called_one(rclone: LocalS3, tmp_path: Path) -> None:
    said: list[str] = []
    run_store(on(make_config(), f"s3://{BUCKET}/x", tmp_path), said.append)
    assert said == [
        f"s3://{BUCKET}/x does not honour conditional writes: that only one driver works on a run "
        "is guaranteed inside one Ray cluster only"
    ]


def test_a_folder_honours_conditions_and_is_said_to(tmp_path: Path) -> None:
    said: list[str] = []
    store = run_store(on(make_config(), None, tmp_path), said.append)
    assert said == [
        f"{store.url} honours conditional writes: one driver at a time, wherever it runs"
    ]


def least(tmp_path: Path) -> Config:
    """One iteration, and every part of a run in it."""
    config = make_config(
        warmup={"samples": 1, "queries": 4, "epochs": 1, "flat_evaluations": 1},
        generate={"samples": 2, "shard_queries": 4, "lookahead": 3, "max_new_tokens": 64},
        evolve={"iterations": 1, "interval": 1 / 3},
        evaluate={"samples": 0, "shard_queries": 5},
    )
    plain = to_dict(config)
    plain["data"]["path"] = str(write_data(tmp_path))
    plain["policy"]["path"] = str(base_folder(tmp_path / "base"))
    return config_from_dict(plain)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main job over scripted roles, without Ray."""
    script_main_job(monkeypatch)
    monkeypatch.setattr("jobs.run.DriverLock", Mock())


def test_the_secret_key_is_in_no_object_and_no_log(
    rclone: LocalS3,
    scripted: None,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = rclone.credentials_file.read_text().split("aws_secret_access_key = ")[1].strip()
    caplog.set_level(logging.INFO)
    found = evolve(on(least(tmp_path), f"s3://{BUCKET}/run", tmp_path / "out"))
    assert found["finished"] is not None
    told = capfd.readouterr()
    assert "does not honour conditional writes" in told.out + told.err
    assert secret not in told.out + told.err + caplog.text
    store = bucket_store("run")
    paths = store.list()
    assert any(path.startswith("runs/") for path in paths)
    assert not [path for path in paths if secret.encode() in store.get(path)]
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert rclone.folder / "rclone.log" in written
    holding = [file for file in written if secret.encode() in file.read_bytes()]
    assert holding == [rclone.credentials_file]
