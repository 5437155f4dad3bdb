"""The generator in its Ray actor, under a pool, with the real vLLM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from actors.model.images import image_path
from pipeline.records import Rollout
from pipeline.storage.artifacts import read_rows
from pipeline.storage.models import publish_folder
from pipeline.storage.store import open_store
from tests.support.generator_driver import IMAGES, works
from tests.support.models import make_policy
from tests.support.processes import processes

# An engine starts in it, and on a busy machine its processes end late.
pytestmark = pytest.mark.timeout(600)

REPOSITORY = Path(__file__).resolve().parents[3]


def test_a_pool_of_generators_writes_shards_and_leaves_no_process(tmp_path: Path) -> None:
    """Two shards in flight on one engine, then the driver is killed."""
    store = open_store(tmp_path / "store")
    policy = publish_folder(store, make_policy(tmp_path / "policy", 0))
    for sha, data in IMAGES.items():
        store.put(image_path(sha), data)
    arguments = [str(tmp_path / "store"), str(tmp_path / "cache"), policy.version, policy.path]
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.support.generator_driver", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    ended = json.loads(driver.stdout.readline())
    assert {result["key"] for result in ended} == {work.key for work in works(policy)}
    for result in ended:
        assert result["failure"] is None
        rows = read_rows(store, result["value"]["rollout"], Rollout)
        assert len(rows) == result["value"]["rows"] == 16
        assert len({row.seed for row in rows}) == 16
    family = psutil.Process(driver.pid).children(recursive=True)
    assert processes("GeneratorActor", of=driver.pid)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(family, timeout=180)
    assert not alive
