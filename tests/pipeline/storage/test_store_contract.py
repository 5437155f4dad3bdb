"""One contract, four places: memory, a folder, S3 with and S3 without create-only writes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import BadData, CorruptObject, StoreMissing, StoreRefused
from pipeline.hashing import sha256_hex
from pipeline.storage.artifacts import get_verified, put_content
from pipeline.storage.s3 import S3Backend
from pipeline.storage.store import Store, check_writable, open_store
from pipeline.storage.trees import (
    check_tree,
    delete_tree,
    fetch_tree,
    manifest_path,
    put_content_tree,
    read_manifest,
    scan_tree,
)
from tests.support.s3_servers import moto_server, rclone_server

PLACES = ("memory", "local", "rclone", "moto")


@pytest.fixture(scope="module", params=PLACES)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The prefix of URLs of one of the places, its server running."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "memory":
        yield "memory://"
    elif request.param == "local":
        yield f"{folder}/"
    elif request.param == "rclone":
        with rclone_server(folder) as server:
            yield f"s3://{server.bucket}/"
    else:
        with moto_server():
            yield "s3://mstar-tests/"


@pytest.fixture(scope="module")
def client(place: str) -> Store:
    """Whose connection every store of a place uses: building one takes a good part of a second."""
    return open_store(f"{place}client", 30.0)


@pytest.fixture
def store(place: str, client: Store) -> Store:
    store = open_store(f"{place}{secrets.token_hex(6)}", 30.0)
    if isinstance(store.backend, S3Backend) and isinstance(client.backend, S3Backend):
        store.backend._filesystem = (os.getpid(), client.backend._s3)
    return store


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small folder like a policy's, with a nested file, an empty one and a link."""
    folder = tmp_path / "policy"
    (folder / "nested").mkdir(parents=True)
    (folder / "config.json").write_text('{"layers": 4}')
    (folder / "nested" / "weights.safetensors").write_bytes(bytes(range(256)) * 64)
    (folder / "empty.txt").touch()
    blob = tmp_path / "blob"
    blob.write_text("tokens")
    (folder / "tokenizer.json").symlink_to(blob)
    return folder


def test_what_was_put_is_what_is_got(store: Store) -> None:
    assert not store.exists("a/b.bin")
    store.put("a/b.bin", b"\x00bytes")
    store.put("a/empty", b"")
    assert store.exists("a/b.bin")
    assert not store.exists("a")
    assert store.get("a/b.bin") == b"\x00bytes"
    assert store.get("a/empty") == b""
    entry = store.stat("a/b.bin")
    assert entry is not None
    assert (entry.path, entry.size_bytes) == ("a/b.bin", 6)
    assert store.hash_of("a/b.bin") == sha256_hex(b"\x00bytes")


def test_a_missing_object_is_said_and_deleting_it_is_fine(store: Store) -> None:
    for path in ("nothing", "a/nothing/here"):
        with pytest.raises(StoreMissing, match="no"):
            store.get(path)
        with pytest.raises(StoreMissing):
            store.hash_of(path)
        store.delete(path)
    assert store.list() == []
    assert store.list("no/such/folder") == []


def test_list_is_sorted_recursive_and_by_folder(store: Store) -> None:
    for path in ("run/b", "run/a/2", "run/a/10", "runs/x", "run-2"):
        store.put(path, b"x")
    assert store.list("run") == ["run/a/10", "run/a/2", "run/b"]
    assert store.list("run/") == store.list("run")
    assert store.list("run/a") == ["run/a/10", "run/a/2"]
    assert store.list() == sorted(["run/b", "run/a/2", "run/a/10", "runs/x", "run-2"])
    store.delete("run/a/2")
    assert [entry.path for entry in store.entries("run")] == ["run/a/10", "run/b"]


def test_names_with_unusual_characters_survive(store: Store) -> None:
    for path in ("a b/c+d=e&f.txt", "größe/π", "%41/..x", "a.b/-_~!'()*"):
        store.put(path, path.encode())
        assert store.get(path) == path.encode()
        assert path in store.list()


def test_a_path_out_of_the_store_is_refused(store: Store) -> None:
    evil = ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/", "a\\b", "a\nb"]
    for path in [*evil, ".tmp/x", "a/" + "x" * 256, "a/" * 500 + "a"]:
        for action in (store.get, store.stat, store.delete, store.quarantine):
            with pytest.raises(StoreRefused, match="cannot be the path"):
                action(path)
        for write in (store.put, store.create, store.replace):
            with pytest.raises(StoreRefused, match="cannot be the path"):
                write(path, b"x")
    with pytest.raises(StoreRefused, match="cannot be the path"):
        store.list("../x")
    assert store.list() == []


def test_create_is_won_once(store: Store) -> None:
    assert store.create("ledger/0", b"mine")
    assert not store.create("ledger/0", b"theirs")
    assert store.get("ledger/0") == b"mine"
    assert store.create("ledger/0", b"mine"), "my own bytes mean that I won"


def test_the_probe_says_which_kind_of_place_it_is(
    store: Store, request: pytest.FixtureRequest
) -> None:
    assert store.conditional_writes() == ("[rclone]" not in request.node.name)
    assert store.list() == [], "the probe leaves nothing"


def test_put_is_idempotent_and_mends_what_is_damaged(store: Store) -> None:
    store.put("shard", b"good")
    store.put("shard", b"good")
    for damaged in (b"evil", b"goo", b""):
        store.replace("shard", damaged)
        store.put("shard", b"good")
        assert store.get("shard") == b"good"
    kept = store.list("quarantine/shard")
    assert {store.get(path) for path in kept} == {b"evil", b"goo", b""}


def test_content_is_found_by_its_hash_and_never_taken_damaged(store: Store) -> None:
    path = put_content(store, "rollout", "it3-0123456789abcdef", b"rows", "parquet")
    assert path == f"shards/rollout/it3-0123456789abcdef/{sha256_hex(b'rows')}.parquet"
    assert get_verified(store, path) == b"rows"
    store.replace(path, b"r0ws")
    with pytest.raises(CorruptObject, match="not its own"):
        get_verified(store, path, quarantine=False)
    assert store.exists(path)
    with pytest.raises(CorruptObject, match=sha256_hex(b"rows")):
        get_verified(store, path)
    assert not store.exists(path)
    assert [store.get(kept) for kept in store.list("quarantine")] == [b"r0ws"]
    assert put_content(store, "rollout", "it3-0123456789abcdef", b"rows", "parquet") == path
    assert get_verified(store, path) == b"rows"


def test_large_objects_go_and_come_in_parts(store: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    store.part_bytes = 1 << 20
    if isinstance(store.backend, S3Backend):
        store.backend.part_bytes = 5 << 20  # the least that S3 takes
    data = secrets.token_bytes(1 << 20) * 11 + b"end"
    source.write_bytes(data)
    store.put_file("large", source, sha256_hex(data))
    assert store.get_file("large", target) == sha256_hex(data)
    assert target.read_bytes() == data
    before = store.stat("large")
    store.put_file("large", source, sha256_hex(data))
    assert store.stat("large") == before, "what is there and whole is not written again"
    store.replace("large", data[:-1])
    store.put_file("large", source, sha256_hex(data))
    assert store.hash_of("large") == sha256_hex(data)


def test_many_small_objects_come_in_order(store: Store) -> None:
    paths = [f"entries/{n:04}" for n in range(40)]
    for path in paths:
        store.put(path, path.encode())
    assert list(store.get_many(iter(paths))) == [path.encode() for path in paths]


def test_a_tree_comes_back_as_it_was(store: Store, tree: Path, tmp_path: Path) -> None:
    prefix = put_content_tree(store, "policies", "p0", tree)
    manifest = read_manifest(store, prefix)
    assert manifest == scan_tree(tree)
    assert put_content_tree(store, "policies", "p0", tree) == prefix
    cache = tmp_path / "p0"
    assert fetch_tree(store, prefix, cache) == manifest
    assert scan_tree(cache) == manifest
    assert not (cache / "tokenizer.json").is_symlink()
    assert check_tree(store, prefix) == []
    delete_tree(store, prefix)
    assert store.list("policies") == []


def test_a_damaged_tree_is_named_and_mended(store: Store, tree: Path, tmp_path: Path) -> None:
    prefix = put_content_tree(store, "policies", "p0", tree)
    assert prefix == f"policies/p0/{scan_tree(tree).sha256}"
    weights = f"{prefix}/nested/weights.safetensors"
    store.replace(weights, b"\x01" + bytes(range(256)) * 64)
    store.delete(f"{prefix}/config.json")
    assert check_tree(store, prefix) == [
        f"{prefix}/config.json is missing",
        f"{weights} is corrupt",
    ]
    store.replace(f"{prefix}/config.json", b'{"layers": 4}')
    with pytest.raises(CorruptObject, match="weights"):
        fetch_tree(store, prefix, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert put_content_tree(store, "policies", "p0", tree) == prefix
    assert fetch_tree(store, prefix, tmp_path / "cache") == scan_tree(tree)


def test_a_damaged_manifest_is_named_and_mended(store: Store, tree: Path, tmp_path: Path) -> None:
    prefix = put_content_tree(store, "policies", "p0", tree)
    good = store.get(manifest_path(prefix))
    for damaged in (b"", b"{}", b"[]", good[:-1], good.replace(b"config.json", b"konfig.json")):
        store.replace(manifest_path(prefix), damaged)
        with pytest.raises(CorruptObject, match="manifest"):
            fetch_tree(store, prefix, tmp_path / "cache")
    put_content_tree(store, "policies", "p0", tree)
    assert store.get(manifest_path(prefix)) == good


def test_a_manifest_cannot_name_a_file_outside(store: Store, tree: Path, tmp_path: Path) -> None:
    prefix = put_content_tree(store, "policies", "p0", tree)
    good = store.get(manifest_path(prefix))
    evil = good.replace(b'"config.json"', b'"../../../config.json"')
    prefix = f"policies/p0/{sha256_hex(evil)}"
    store.put(manifest_path(prefix), evil)
    (tmp_path / "a").mkdir()
    with pytest.raises(CorruptObject, match="outside"):
        fetch_tree(store, prefix, tmp_path / "a" / "cache")
    assert not list(tmp_path.rglob("a/**/config.json"))


def test_a_tree_without_its_manifest_is_no_tree(store: Store, tree: Path, tmp_path: Path) -> None:
    prefix = put_content_tree(store, "policies", "p0", tree)
    store.delete(manifest_path(prefix))
    with pytest.raises(StoreMissing):
        fetch_tree(store, prefix, tmp_path / "cache")
    assert check_tree(store, prefix) != []


def test_what_is_not_a_tree_is_refused(store: Store, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "hollow" / "deep").mkdir(parents=True)
    for folder, why in ((tmp_path / "no", "not a folder"), (tmp_path / "hollow", "no file")):
        with pytest.raises(BadData, match=why):
            put_content_tree(store, "policies", "p0", folder)
    (tree / "linked").symlink_to(tmp_path)
    with pytest.raises(BadData, match="link to a folder"):
        put_content_tree(store, "policies", "p0", tree)


def test_check_writable_leaves_nothing(store: Store) -> None:
    check_writable(store)
    assert store.list() == []
