"""Folders in the store, and their copies on a node: whole and verified, or not there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store, open_store
from pipeline.storage.trees import get_tree, put_tree
from tests.support.scripted_store import Crash, Fault, ScriptedBackend, patient


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    folder.mkdir()
    for n in range(6):
        (folder / f"part-{n}.bin").write_bytes(bytes([n]) * 1000)
    return folder


def test_a_folder_that_differs_is_kept_aside_and_replaced(policy: Path, tmp_path: Path) -> None:
    store = open_store("memory://")
    put_tree(store, "p", policy)
    cache = tmp_path / "cache"
    get_tree(store, "p", cache)
    (cache / "part-3.bin").write_bytes(b"stale weights")
    (cache / "extra.bin").touch()
    get_tree(store, "p", cache)
    assert (cache / "part-3.bin").read_bytes() == b"\x03" * 1000
    assert not (cache / "extra.bin").exists()
    assert [path.name for path in tmp_path.glob(".cache.damaged-*/part-3.bin")] == ["part-3.bin"]


def test_a_fetch_that_was_killed_goes_on_from_the_whole_files(policy: Path, tmp_path: Path) -> None:
    inner = MemoryBackend()
    manifest = put_tree(Store(inner), "p", policy)
    cache = tmp_path / "cache"

    def die(operation: str, path: str, _number: int) -> Fault | None:
        return "crash_before" if (operation, path) == ("read", "p/part-5.bin") else None

    with pytest.raises(Crash):
        get_tree(patient(ScriptedBackend(inner, die)), "p", cache)
    assert not cache.exists()
    (tmp_path / ".cache.part" / "part-0.bin").write_bytes(b"torn")
    (tmp_path / ".cache.part" / "of-another-tree").touch()
    backend = ScriptedBackend(inner)
    assert get_tree(patient(backend), "p", cache) == manifest
    assert sorted(path for call, path in backend.calls if call == "read") == [
        "p.manifest.json",
        "p/part-0.bin",
        "p/part-5.bin",
    ]
    assert sorted(path.name for path in cache.iterdir()) == [f"part-{n}.bin" for n in range(6)]


def test_processes_that_want_one_folder_fetch_it_once(policy: Path, tmp_path: Path) -> None:
    backend = ScriptedBackend(MemoryBackend())
    store = patient(backend)
    put_tree(store, "p", policy)
    backend.calls.clear()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: get_tree(store, "p", tmp_path / "cache"), range(4)))
    assert len(set(found)) == 1
    files = [path for call, path in backend.calls if call == "read" and ".bin" in path]
    assert len(files) == 6


@given(crash=st.integers(0, 30), after=st.booleans())
def test_a_tree_is_complete_or_not_there(
    crash: int, after: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "three-files"
    folder.mkdir(exist_ok=True)
    for n in range(3):
        (folder / str(n)).write_bytes(bytes([n]) * 10)
    inner = MemoryBackend()
    fault: Fault = "crash_after" if after else "crash_before"
    backend = ScriptedBackend(inner, lambda _o, _p, number: fault if number == crash else None)
    with suppress(Crash):
        put_tree(patient(backend), "p", folder)
    there = Store(inner).exists("p.manifest.json")
    assert not there or [entry.path for entry in inner.list("p")] == ["p/0", "p/1", "p/2"]
    assert put_tree(patient(inner), "p", folder).size_bytes == 30
