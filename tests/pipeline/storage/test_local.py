"""A store in a folder: durable, whole after any kill, clear about what the disk says."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import StoreMissing, StoreRefused, StoreUnavailable, UserError
from pipeline.storage.backend import StoreFull
from pipeline.storage.local import LocalBackend, store_error
from pipeline.storage.store import check_writable, open_store
from tests.support.small_disk import on_a_small_disk

ROOT = Path(__file__).resolve().parents[3]


def test_reading_a_place_that_is_not_there_leaves_no_trace(tmp_path: Path) -> None:
    store = open_store(tmp_path / "no" / "store")
    assert store.list() == []
    assert not store.exists("x")
    assert not (tmp_path / "no").exists()


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "store", Path("/proc/store")):
        with pytest.raises(UserError, match="cannot be used") as caught:
            check_writable(open_store(place))
        assert str(place) in str(caught.value)


def test_a_folder_where_an_object_should_be_is_no_object(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("a/b", b"1")
    assert store.stat("a") is None
    with pytest.raises(StoreMissing):
        store.get("a")
    with pytest.raises(StoreMissing):
        store.get("a/b/c")
    with pytest.raises(StoreRefused):
        store.put("a/b/c", b"1")


def test_nothing_is_listed_written_or_deleted_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "x").write_bytes(b"not the store's")
    store = open_store(tmp_path / "store")
    store.put("a/b", b"1")
    (tmp_path / "store" / "link").symlink_to(outside)
    (tmp_path / "store" / "a" / "loop").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "a" / "file").symlink_to(outside / "deep" / "x")
    assert store.list() == store.list("a") == ["a/b"]
    refused: tuple[Callable[[], object], ...] = (
        lambda: store.list("link/deep"),
        lambda: store.put("link/y", b"2"),
        lambda: store.create("link/deep/y", b"2"),
        lambda: store.replace("link/deep/x", b"2"),
        lambda: store.delete("link/deep/x"),
        lambda: store.delete("a/loop/a/b"),
        lambda: store.quarantine("link/deep/x"),
    )
    for call in refused:
        with pytest.raises(StoreRefused, match=r"(link|loop) is a link"):
            call()
    store.delete("a/file")  # the link goes, not what it points to
    assert (outside / "deep" / "x").read_bytes() == b"not the store's"
    assert [path.name for path in outside.rglob("*")] == ["deep", "x"]
    assert store.list() == ["a/b"]


def test_temporary_files_are_not_looked_for_behind_a_link(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "store"
    for place in (outside, folder):
        place.mkdir()
    (outside / "old").touch()
    os.utime(outside / "old", (1, 1))
    (folder / ".tmp").symlink_to(outside)
    with pytest.raises(StoreRefused, match=r"\.tmp is a link"):
        open_store(folder).put("x", b"1")
    assert (outside / "old").exists()


def test_the_store_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "large-disk")
    store = open_store(tmp_path / "store")
    store.put("a/b", b"1")
    assert store.list() == ["a/b"]
    store.delete("a/b")
    assert store.list() == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.ESTALE, StoreUnavailable),
        (errno.ETIMEDOUT, StoreUnavailable),
        (errno.EROFS, StoreRefused),
        (errno.EACCES, StoreRefused),
        (errno.EIO, StoreRefused),
    ],
)
def test_kinds_of_failure_are_told_apart(number: int, kind: type[Exception]) -> None:
    error = store_error(OSError(number, os.strerror(number)), "/store: x")
    assert type(error) is kind
    assert os.strerror(number) in str(error)


FULL_DISK = """
    import sys
    from pathlib import Path
    from pipeline.storage.backend import StoreFull
    from pipeline.storage.store import open_store
    store = open_store(Path(sys.argv[1]))
    store.put("small", b"x")
    for write in (store.put, store.create, store.replace):
        try:
            write("large", b"x" * (1 << 20))
        except StoreFull as error:
            print(error)
    print(store.list(), len(list(Path(sys.argv[1], ".tmp").iterdir())))
"""


def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path: Path) -> None:
    _, (*refusals, left) = on_a_small_disk(FULL_DISK, tmp_path)
    assert len(refusals) == 3
    assert all("No space left on device. Free some space" in line for line in refusals)
    assert left == "['small'] 0"


def dead_writers_file(store: Path, name: str) -> Path:
    path = store / ".tmp" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half of an obj")
    os.utime(path, (1, 1))
    return path


def test_what_dead_writers_left_is_removed_and_living_ones_keep_theirs(tmp_path: Path) -> None:
    dead = dead_writers_file(tmp_path, "dead")
    young = dead_writers_file(tmp_path, "young")
    os.utime(young)
    living = dead_writers_file(tmp_path, "living")
    with open(living, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        store = open_store(tmp_path)
        assert store.list() == []
        assert dead.exists(), "reading removes nothing"
        store.put("x", b"1")
    assert not dead.exists()
    assert young.exists()
    assert living.exists()
    assert store.list() == ["x"]


KILLED = """
    import os, sys
    from pathlib import Path
    from pipeline.storage import local
    from pipeline.storage.store import open_store
    step = sys.argv[2]
    def die(*args, **named):
        os.kill(os.getpid(), 9)
    if step == "write":
        os.fsync = die
    elif step in ("link", "replace"):
        setattr(os, step, die)
    else:
        local.LocalBackend._fsync_folder = die
    store = open_store(Path(sys.argv[1]))
    getattr(store, sys.argv[3])("run/entry", b"whole")
"""


@pytest.mark.parametrize(
    ("method", "step"),
    [("create", step) for step in ("write", "link", "folder")]
    + [("put", step) for step in ("write", "replace", "folder")],
)
def test_a_writer_killed_at_any_step_leaves_a_whole_object_or_none(
    tmp_path: Path, method: str, step: str
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), step, method]
    assert subprocess.run(command, check=False, cwd=ROOT).returncode == -9
    store = open_store(tmp_path)
    assert store.list() in ([], ["run/entry"])
    assert not store.exists("run/entry") or store.get("run/entry") == b"whole"
    assert store.create("run/entry", b"whole")
    assert store.get("run/entry") == b"whole"


def test_of_many_racing_creates_one_wins(tmp_path: Path) -> None:
    stores = [open_store(tmp_path) for _ in range(8)]
    together = threading.Barrier(len(stores))

    def race(number: int) -> list[bool]:
        won = []
        for attempt in range(20):
            together.wait()
            won.append(stores[number].create(f"entry-{attempt}", f"driver {number}".encode()))
        return won

    with ThreadPoolExecutor(len(stores)) as pool:
        won_by_driver = list(pool.map(race, range(len(stores))))
    for attempt in range(20):
        won = [attempts[attempt] for attempts in won_by_driver]
        assert won.count(True) == 1
        assert stores[0].get(f"entry-{attempt}") == f"driver {won.index(True)}".encode()


def test_a_file_system_without_hard_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    store = open_store(tmp_path)
    assert not store.conditional_writes()
    with pytest.raises(StoreRefused, match="no hard links"):
        store.create("x", b"1")
    assert store.list() == []


def test_files_are_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        open_store(tmp_path).put("x", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_many_threads_share_one_store(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put(f"shards/{n % 5}/{n}", str(n).encode()), range(64)))
    assert len(store.list()) == 64
    assert all(store.get(path).decode() == path.rsplit("/", 1)[1] for path in store.list())


def test_the_local_backend_counts_a_lost_link_race_as_lost(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    assert backend.create("x", b"1")
    assert not backend.create("x", b"1"), "whose bytes they are is for Store to see"
