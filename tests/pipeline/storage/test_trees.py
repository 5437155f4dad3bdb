"""Folders in the store, and their copies on a node: whole and verified, or not there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store, open_store
from pipeline.storage.trees import fetch_tree, put_content_tree, read_manifest, scan_tree
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
    prefix = put_content_tree(store, "policies", "p", policy)
    cache = tmp_path / "cache"
    fetch_tree(store, prefix, cache)
    (cache / "part-3.bin").write_bytes(b"stale weights")
    (cache / "extra.bin").touch()
    fetch_tree(store, prefix, cache)
    assert (cache / "part-3.bin").read_bytes() == b"\x03" * 1000
    assert not (cache / "extra.bin").exists()
    assert [path.name for path in tmp_path.glob(".cache.damaged-*/part-3.bin")] == ["part-3.bin"]


def test_a_fetch_that_was_killed_goes_on_from_the_whole_files(policy: Path, tmp_path: Path) -> None:
    inner = MemoryBackend()
    prefix = put_content_tree(Store(inner), "policies", "p", policy)
    cache = tmp_path / "cache"

    def die(operation: str, path: str, _number: int) -> Fault | None:
        return "crash_before" if (operation, path) == ("read", f"{prefix}/part-5.bin") else None

    with pytest.raises(Crash):
        fetch_tree(patient(ScriptedBackend(inner, die)), prefix, cache)
    assert not cache.exists()
    (tmp_path / ".cache.part" / "part-0.bin").write_bytes(b"torn")
    (tmp_path / ".cache.part" / "of-another-tree").touch()
    backend = ScriptedBackend(inner)
    assert fetch_tree(patient(backend), prefix, cache) == scan_tree(policy)
    assert sorted(path for call, path in backend.calls if call == "read") == [
        f"{prefix}.manifest.json",
        f"{prefix}/part-0.bin",
        f"{prefix}/part-5.bin",
    ]
    assert sorted(path.name for path in cache.iterdir()) == [f"part-{n}.bin" for n in range(6)]


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
        put_content_tree(patient(backend), "policies", "p", folder)
    prefix = f"policies/p/{scan_tree(folder).sha256}"
    there = Store(inner).exists(f"{prefix}.manifest.json")
    files = [f"{prefix}/{n}" for n in range(3)]
    assert not there or [entry.path for entry in inner.list(prefix)] == files
    assert put_content_tree(patient(inner), "policies", "p", folder) == prefix
    assert read_manifest(Store(inner), prefix).size_bytes == 30
