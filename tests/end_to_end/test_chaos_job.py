"""`make chaos` at its smallest, and the main job on both kinds of S3 server: the real parts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.audit.run import audit
from tests.support.s3_servers import BUCKET, bucket_store, moto_server, rclone_server

ROOT = Path(__file__).resolve().parents[2]

LIMIT_S = 3000


def job(log: Path, module: str, *arguments: str) -> int:
    """Run a job; its exit code. What it says goes to `log`."""
    with log.open("ab") as said:
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            timeout=LIMIT_S,
            check=False,
        )
    return done.returncode


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
def test_a_run_that_is_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    log = tmp_path / "log"
    smaller = ["--set", "evolve.iterations=1", "--set", "evolve.control=false"]
    code = job(log, "jobs.chaos", "--kills", "3", "--examples", "0", "--out", str(tmp_path),
               *smaller)  # fmt: skip
    assert code == 0, log.read_text()[-4000:]
    found = json.loads((tmp_path / "chaos.json").read_text())
    assert found["identical"] is True
    assert found["controls_differ"] is True
    assert found["audit_clean"] is True
    assert len(found["kills"]) == 3
    assert all(one["pid"] > 1 and one["position"] >= 0 for one in found["kills"])
    assert (found["missed"], found["generated_twice"], found["survivors"]) == ([], [], [])


@pytest.fixture(params=["moto", "rclone"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "moto":
            stack.enter_context(moto_server())
        else:
            stack.enter_context(rclone_server(tmp_path / "s3"))
        yield request.param


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
def test_the_tiny_recipe_passes_on_both_kinds_of_server(kind: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    tiny = ["--config", "tiny", "--set", f"run.out={tmp_path}"]
    tiny += ["--set", f"store.url=s3://{BUCKET}/tiny"]
    assert job(log, "jobs.run", *tiny) == 0, log.read_text()[-4000:]
    words = {"moto": "honours conditional writes", "rclone": "does not honour conditional writes"}
    assert words[kind] in log.read_text()
    store = bucket_store("tiny")
    report = audit(store, "tiny")
    assert report.problems == []
    assert report.finished
    before = store.list()
    assert job(log, "jobs.run", *tiny) == 0
    assert "is finished" in log.read_text()
    assert [path for path in store.list() if "/probe/" not in path] == before
    assert job(log, "jobs.audit", f"s3://{BUCKET}/tiny") == 0
