"""Ray's start: what does not answer is refused at once, nothing is left, loopback only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from jobs.runtime.ray_cluster import check_address
from jobs.runtime.ray_token import CHOSEN, make_token
from pipeline.errors import BadConfig, UserError

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def service(greeting: bytes) -> Iterator[str]:
    """A port that answers whoever connects with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(greeting)
                connection.recv(1000)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_an_address_where_nobody_listens_is_refused() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for given in (address, f"ray://{address}"):
            with pytest.raises(BadConfig, match=r"nobody answers.*ray start --head") as caught:
                check_address(given, 8.0)
            assert f"cluster.address = {given}" in str(caught.value)
            assert "\n" not in str(caught.value)


def test_another_services_port_is_refused() -> None:
    with service(b"SSH-2.0-OpenSSH_9.6\r\n") as address, pytest.raises(BadConfig, match="not Ray"):
        check_address(address, 8.0)


def test_a_service_that_says_nothing_is_waited_for_as_long_as_is_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(BadConfig, match=r"nobody answers there \(timed out\)"):
            check_address(address, 0.05)


def test_a_grpc_server_that_is_another_services_is_refused() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with pytest.raises(BadConfig, match="what answers there is not Ray"):
            check_address(address, 8.0)
        check_address(f"ray://{address}", 8.0)  # of Ray's client server, other methods
    finally:
        server.stop(None)


@pytest.mark.parametrize("address", ["", "head", "head:port", "ray://head", ":6379", "head:99999"])
def test_an_address_without_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(BadConfig, match="write HOST:PORT"):
        check_address(address, 8.0)


@pytest.fixture
def no_token_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment says where a token is: a Ray that ran in this process says so."""
    for name in CHOSEN:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_token_chosen")
def test_the_token_is_for_this_user_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    lines: list[str] = []
    make_token(lines.append)
    file = tmp_path / ".ray" / "auth_token"
    token = file.read_text()
    assert len(token) == 64
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["auth_token"]
    make_token(lines.append)
    assert (file.read_text(), lines) == (token, [])
    file.chmod(0o644)
    make_token(lines.append)
    assert lines == [
        f"{file}, the token of this user's Ray, can be read by others: chmod 600 {file}"
    ]


def test_no_token_is_made_where_one_is_given_or_none_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in (("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN_PATH", "/x")):
        with monkeypatch.context() as set_:
            set_.setenv(name, value)
            make_token(print)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_token_chosen")
def test_a_home_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="token cannot be kept in"):
        make_token(print)


# A private Ray, looked at from inside: what listens, where its files are, and what is left of a
# start that failed once its control store was up (its object store is too small).
PRIVATE = """
    import os, sys, tempfile
    from pathlib import Path
    import psutil
    from jobs.runtime.ray_cluster import check_address, init_ray, start_ray
    from tests.support.scripted import make_config

    def ours():
        return psutil.Process().children(recursive=True)

    def listening(process):
        return [c for c in process.net_connections(kind="inet") if c.status == "LISTEN"]

    if sys.argv[1] == "failing":
        before = {one.pid for one in ours()}
        try:
            init_ray({"object_store_memory": 1, "include_dashboard": False})
        except ValueError as error:
            print("refused", str(error)[:200])
        print([one.cmdline() for one in ours() if one.pid not in before and one.is_running()
               and one.status() != "zombie"])
    else:
        with start_ray(make_config(), print):
            import ray

            check_address(ray.get_runtime_context().gcs_address, 8.0)

            @ray.remote
            def temporary():
                return tempfile.gettempdir()

            folder = Path(ray.get(temporary.remote()))
            found = [c.laddr.ip for one in [psutil.Process(), *ours()] for c in listening(one)]
            session = Path(ray._private.worker._global_node.get_session_dir_path())
            print(sorted(set(found)), len(found) > 5)
            print(session.parent == folder, folder.name.startswith("job-"), folder.is_dir())
            print((Path.home() / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600)
        print(folder.exists())
"""


def private_ray(tmp_path: Path, way: str) -> list[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(PRIVATE))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")},
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, script, way], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_a_private_ray_listens_on_loopback_and_keeps_its_files_in_the_jobs_folder(
    tmp_path: Path,
) -> None:
    listening, files, token, left = private_ray(tmp_path, "running")
    assert listening == "['127.0.0.1', '::ffff:127.0.0.1'] True"
    assert (files, token, left) == ("True True True", "True", "False")


def test_a_start_that_fails_half_way_leaves_no_process(tmp_path: Path) -> None:
    refusal, left = private_ray(tmp_path, "failing")
    assert "object store" in refusal.lower()
    assert left == "[]"
