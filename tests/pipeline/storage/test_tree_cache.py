"""A node's cache of trees: fetched once, verified once, never removed under a reader, bounded."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import CorruptObject, DiskFull, StoreMissing
from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store
from pipeline.storage.tree_cache import TreeCache
from pipeline.storage.trees import put_content_tree, scan_tree
from tests.support.scripted_store import Crash, Fault, ScriptedBackend, patient


class Shelf:
    """A store with trees in it that counts what is read, and the cache of a node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inner = MemoryBackend()
        self.backend = ScriptedBackend(self.inner)
        self.store: Store = patient(self.backend)
        self.cache = TreeCache(folder / "cache", keep={"policies": 2, "checkpoints": 2})

    def put(self, number: int, kind: str = "policies") -> str:
        folder = self.folder / f"tree-{number}"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(f'{{"number": {number}}}')
        (folder / "model.safetensors").write_bytes(bytes([number]) * 1000)
        return put_content_tree(Store(self.inner), kind, "model", folder)

    @property
    def reads(self) -> list[str]:
        return [path.rsplit("/", 1)[-1] for call, path in self.backend.calls if call == "read"]

    def kept(self, kind: str = "policies") -> set[str]:
        return {each.name for each in (self.cache.folder / kind).iterdir() if each.is_dir()}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_it_is_fetched_once_and_then_the_store_is_not_asked(shelf: Shelf) -> None:
    path = shelf.put(1)
    moves: list[str] = []
    with shelf.cache.tree(shelf.store, path, moves.append) as folder:
        assert scan_tree(folder) == scan_tree(shelf.folder / "tree-1")
    assert f"fetching {path}/model.safetensors" in moves
    read = list(shelf.reads)
    assert sorted(read)[-2:] == ["config.json", "model.safetensors"]
    another_process = TreeCache(shelf.cache.folder)
    with another_process.tree(shelf.store, path) as again:
        assert again == folder
    assert shelf.reads == read


def test_readers_that_want_one_tree_wait_for_one_of_them(shelf: Shelf) -> None:
    path = shelf.put(1)

    def read(_: int) -> str:
        with TreeCache(shelf.cache.folder).tree(shelf.store, path) as folder:
            return (folder / "config.json").read_text()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(read, range(4))) == {'{"number": 1}'}
    assert shelf.reads.count("model.safetensors") == 1


def test_a_file_that_was_changed_is_noticed_and_fetched_anew(shelf: Shelf) -> None:
    path = shelf.put(1)
    with shelf.cache.tree(shelf.store, path) as folder:
        pass
    (folder / "model.safetensors").write_bytes(b"stale weights")
    with shelf.cache.tree(shelf.store, path) as folder:
        assert (folder / "model.safetensors").read_bytes() == b"\x01" * 1000


def test_what_is_in_the_store_damaged_or_missing_is_said_and_nothing_counts_as_there(
    shelf: Shelf,
) -> None:
    path = shelf.put(1)
    weights = f"{path}/model.safetensors"
    Store(shelf.inner).replace(weights, b"\x01" * 999 + b"\x00")
    with pytest.raises(CorruptObject, match=r"model\.safetensors"):
        shelf.cache.tree(shelf.store, path).__enter__()
    with pytest.raises(StoreMissing):
        shelf.cache.tree(shelf.store, f"policies/model/{'0' * 64}").__enter__()
    assert shelf.cache.held(path) is None
    shelf.put(1)
    with shelf.cache.tree(shelf.store, path) as folder:
        assert shelf.cache.held(path) == folder


def test_a_fetch_that_was_killed_is_gone_on_from(shelf: Shelf) -> None:
    path = shelf.put(1)

    def die(operation: str, path: str, _number: int) -> Fault | None:
        weights = operation == "read" and path.endswith("safetensors")
        return "crash_before" if weights else None

    with pytest.raises(Crash):
        shelf.cache.tree(patient(ScriptedBackend(shelf.inner, die)), path).__enter__()
    with shelf.cache.tree(shelf.store, path):
        assert sorted(name for name in shelf.reads if "manifest" not in name)[-1:] == [
            "model.safetensors"
        ]


def test_the_newest_stay_and_what_is_read_is_never_removed(shelf: Shelf) -> None:
    first, *others = (shelf.put(number) for number in range(5))
    with shelf.cache.tree(shelf.store, first) as read:
        for path in others:
            with shelf.cache.tree(shelf.store, path):
                pass
        assert (read / "model.safetensors").is_file()
        assert shelf.kept() == {path[-64:] for path in (first, *others[-2:])}
    with shelf.cache.tree(shelf.store, shelf.put(5)):
        pass
    assert shelf.kept() == {others[-1][-64:], shelf.put(5)[-64:]}
    left = {each.name.split(".")[0] for each in (shelf.cache.folder / "policies").iterdir()}
    assert left == shelf.kept()
    with shelf.cache.tree(shelf.store, shelf.put(9, "checkpoints")):
        pass
    assert len(shelf.kept()) == 2


def test_without_weights_only_what_tells_tokens_is_fetched(shelf: Shelf) -> None:
    path = shelf.put(1)
    with shelf.cache.tree(shelf.store, path, weights=False) as light:
        assert [each.name for each in light.iterdir()] == ["config.json"]
    with shelf.cache.tree(shelf.store, path) as whole:
        assert len(list(whole.iterdir())) == 2
    with shelf.cache.tree(shelf.store, path, weights=False) as again:
        assert again == whole


def test_what_is_made_of_a_tree_is_made_once_and_whole(shelf: Shelf) -> None:
    path, made = shelf.put(1), []

    def make(folder: Path) -> None:
        made.append(folder)
        folder.mkdir()
        (folder / "half").touch()
        if len(made) == 1:
            raise RuntimeError("the disk is full")
        (folder / "model").touch()

    with pytest.raises(RuntimeError):
        shelf.cache.derived(path, "headed", make).__enter__()
    for _ in range(2):
        with shelf.cache.derived(path, "headed", make) as folder:
            assert sorted(each.name for each in folder.iterdir()) == ["half", "model"]
    assert len(made) == 2


def test_what_a_process_stored_is_not_fetched(shelf: Shelf, tmp_path: Path) -> None:
    path = shelf.put(1)
    shelf.cache.adopt(path, shelf.folder / "tree-1")
    assert not (shelf.folder / "tree-1").exists()
    with shelf.cache.tree(shelf.store, path) as folder:
        assert (folder / "config.json").read_text() == '{"number": 1}'
    assert shelf.reads == []
    # Of a tree that several nodes wrote, each has its own part, and checks it.
    other = shelf.put(2)
    shelf.cache.add(other, shelf.folder / "tree-2" / "model.safetensors")
    with shelf.cache.tree(shelf.store, other) as folder:
        assert len(list(folder.iterdir())) == 2
    assert "model.safetensors" not in shelf.reads


def test_a_waiting_process_says_that_it_waits(shelf: Shelf) -> None:
    path, said = shelf.put(1), threading.Event()
    go_on = threading.Event()

    def slow(doing: str) -> None:
        assert go_on.wait(60)

    with ThreadPoolExecutor(2) as pool:
        fetching = pool.submit(shelf.cache.tree(shelf.store, path, slow).__enter__)
        waiting = pool.submit(
            TreeCache(shelf.cache.folder).tree(shelf.store, path, lambda _: said.set()).__enter__
        )
        assert said.wait(60)
        go_on.set()
        assert fetching.result(60) == waiting.result(60)


def test_a_disk_without_room_is_named_before_anything_is_fetched(shelf: Shelf) -> None:
    """What nobody reads makes room first."""
    first, second = shelf.put(1), shelf.put(2)
    free = [1 << 30]
    cache = TreeCache(shelf.folder / "small", free=lambda folder: free[0])
    with cache.tree(shelf.store, first) as folder:
        free[0] = 1000
        before = list(shelf.reads)
        with pytest.raises(
            DiskFull, match=r"has 1,000 bytes free, and policies/.* needs [\d,]+ bytes"
        ):
            cache.tree(shelf.store, second).__enter__()
        assert "model.safetensors" not in shelf.reads[len(before) :]
        assert folder.is_dir()
    with pytest.raises(DiskFull, match=r"cluster\.node_cache"):
        cache.tree(shelf.store, second).__enter__()
    assert not folder.exists()
    free[0] = 1 << 30
    with cache.tree(shelf.store, second) as other:
        assert other.is_dir()
