"""Uploading a model folder: a private repository, its files, and what stays when it is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.runtime.hub import hub
from pipeline.errors import BadConfig
from tests.support.hub_server import Hub, hub_server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "policy"
    (made / "part").mkdir(parents=True)
    (made / "README.md").write_text("# a card\n")
    (made / "part" / "weights").write_bytes(b"\x00\x01")
    return made


PUSH = """
import sys
from pathlib import Path
from jobs.runtime.cli import ending
from jobs.runtime.hub import hub, push

with ending():
    print(push(hub(sys.argv[2]), Path(sys.argv[1]), sys.argv[2]))
"""


def pushed(server: Hub, folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the suite's is offline."""
    kept = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    return subprocess.run(
        [sys.executable, "-c", PUSH, folder, "me/first"],
        env={**kept, "HF_ENDPOINT": server.url, "HF_TOKEN": "t"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_folder_becomes_a_private_repository(folder: Path) -> None:
    with hub_server() as server:
        done = pushed(server, folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().endswith("me/first")
        assert server.private == {"me/first": True}
        assert server.files == {
            "me/first": {"README.md": b"# a card\n", "part/weights": b"\x00\x01"}
        }


def test_a_refusal_names_the_folder_that_stays(folder: Path) -> None:
    with hub_server() as server:
        server.refuses = True
        done = pushed(server, folder)
    assert done.returncode == 2
    assert f"{folder} was written, and the Hub did not take it as me/first" in done.stderr
    assert (folder / "README.md").exists()


def test_what_cannot_be_uploaded_is_said_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    with pytest.raises(BadConfig, match="needs a token that may write"):
        hub("me/first")
    with pytest.raises(BadConfig, match="--push-to-hub a/b/c"):
        hub("a/b/c")
