"""A node's own view of the files, and a server that ends with whoever started it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.guarded import guarded
from cluster.local.cluster import LocalCluster, short_folder
from cluster.local.mounts import check_namespaces, own_view
from pipeline.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

LOOK = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from cluster.local.mounts import hide
hidden, kept, own, probe = json.loads(sys.argv[2])
hide([Path(each) for each in hidden], [Path(each) for each in kept], Path(own))
(Path(hidden[0]) / "of the node").write_text("mine")
print(json.dumps([
    sorted(os.listdir(hidden[0])), os.path.exists(probe), [Path(each).read_text() for each in kept],
    os.getpid(), len([each for each in os.listdir("/proc") if each.isdigit()]),
]))
"""


def test_a_node_sees_its_own_folder_and_what_it_keeps(tmp_path: Path) -> None:
    hidden, own = tmp_path / "hidden", tmp_path / "hidden" / "below" / "own"
    own.mkdir(parents=True)
    other, kept = tmp_path / "hidden" / "other", tmp_path / "hidden" / "in" / "kept"
    other.touch()
    kept.parent.mkdir()
    kept.write_text("token")
    seen = json.dumps([[str(hidden)], [str(kept)], str(own), str(other)])
    done = subprocess.run(
        own_view(sys.executable, "-c", LOOK, str(ROOT), seen),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names, other_is_there, texts, pid, processes = json.loads(done.stdout)
    assert names == ["in", "of the node"]
    assert not other_is_there
    assert texts == ["token"]
    assert (pid, processes) == (1, 1)
    # nothing of it is seen outside, but for what the node wrote, in its own folder
    assert sorted(path.name for path in hidden.iterdir()) == ["below", "in", "other"]
    assert (own / "hidden-0" / "of the node").read_text() == "mine"


def test_where_namespaces_are_not_there_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_namespaces()
    refusing = tmp_path / "unshare"
    refusing.write_text(
        "#!/bin/sh\necho unshare: unshare failed: Operation not permitted >&2\nexit 1"
    )
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(UserError, match=r"does not permit them .*Operation not permitted"):
        check_namespaces()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="util-linux"):
        check_namespaces()


def test_make_local_cluster_exits_with_2_where_namespaces_are_not_permitted(tmp_path: Path) -> None:
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\nexit 1")
    refusing.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "cluster.local", "--folder", str(tmp_path / "out"), "--port", "0"],
        cwd=ROOT,
        env={"PATH": f"{tmp_path}:/bin:/usr/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "does not permit them" in done.stderr.splitlines()[-1]


SERVER = ("sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done")


def start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        guarded(*command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def test_a_server_ends_with_whoever_holds_its_input() -> None:
    with start(*SERVER) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        process.stdin.close()
        assert process.wait() == 128 + signal.SIGKILL


def test_a_server_may_end_in_its_own_way_when_it_is_told_to() -> None:
    with start(*SERVER) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait() == 7


def test_a_servers_own_end_is_passed_on() -> None:
    with start("sh", "-c", "exit 3") as process:
        assert process.wait() == 3


def test_a_cluster_folder_whose_path_is_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 60)
    with pytest.raises(UserError, match=rf"{deep} has a path that is \d+ bytes too long"):
        LocalCluster(deep, {}).start()
    assert not deep.exists()


def test_a_cluster_folder_is_short_wherever_temporary_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with short_folder() as folder:
        assert folder.parent == Path("/tmp")
    assert not folder.exists()
