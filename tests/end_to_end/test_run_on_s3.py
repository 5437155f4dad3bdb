"""A run on a store behind S3: what it says of it, and where its keys never are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.s3 import LocalS3
from jobs.run import evolve
from jobs.runtime.world import run_store
from tests.support.jobs import SCRIPTED, job_config
from tests.support.s3_servers import BUCKET, bucket_store, rclone_server


@pytest.fixture
def rclone(tmp_path: Path) -> Iterator[LocalS3]:
    with rclone_server(tmp_path / "s3") as server:
        yield server


def test_a_server_that_ignores_conditions_is_called_one(rclone: LocalS3, tmp_path: Path) -> None:
    said: list[str] = []
    run_store(job_config(tmp_path, f"s3://{BUCKET}/x"), said.append)
    assert said == [
        f"s3://{BUCKET}/x does not honour conditional writes: that only one driver works on a run "
        "is guaranteed inside one Ray cluster only"
    ]


def test_a_folder_honours_conditions_and_is_said_to(tmp_path: Path) -> None:
    said: list[str] = []
    store = run_store(job_config(tmp_path), said.append)
    assert said == [
        f"{store.url} honours conditional writes: one driver at a time, wherever it runs"
    ]


# One iteration, and every part of a run in it.
LEAST: dict[str, dict[str, Any]] = {
    "warmup": {"samples": 1, "queries": 4, "epochs": 1, "flat_evaluations": 1},
    "generate": {"samples": 2, "shard_queries": 4, "lookahead": 3, "max_new_tokens": 64},
    "evolve": {"iterations": 1, "interval": 1 / 3},
    "evaluate": {"samples": 0, "shard_queries": 5},
}


def test_the_secret_key_is_in_no_object_and_no_log(
    rclone: LocalS3,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = rclone.credentials_file.read_text().split("aws_secret_access_key = ")[1].strip()
    caplog.set_level(logging.INFO)
    found = evolve(job_config(tmp_path, f"s3://{BUCKET}/run", **LEAST), parts=SCRIPTED)
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
