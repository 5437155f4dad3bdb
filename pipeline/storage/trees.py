"""Folders in the store: a policy, a checkpoint, anything that is used as a directory.

What always holds:

* a tree is complete or not there: its manifest (every file's sha256 and size) is written last, to
  `<prefix>.manifest.json`, and read first;
* its prefix ends in the manifest's own sha256, and nothing but that tree is ever accepted there;
* `fetch_tree` leaves the folder exactly as the manifest says, every byte hashed, or absent; one
  that was killed half way is continued from the files that were complete. Processes of one machine
  that may want the same folder use `pipeline.storage.tree_cache`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BadData, CorruptObject, StoreMissing, StoreRefused
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.storage.backend import check_path
from pipeline.storage.disk import Free, check_room, free_bytes
from pipeline.storage.store import Store

FORMAT = 1
PARALLEL_FILES = 4
_NONE: Mapping[str, bytes] = {}

Beat = Callable[[str], None]
"""Is told what is going on, whenever some of it is done."""


def quiet(doing: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class TreeFile:
    """One file of a tree: its path below the folder, the sha256 of its bytes, its size."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a tree holds, ordered by path. Equal folders give equal manifests on every machine."""

    files: tuple[TreeFile, ...]

    def to_json(self) -> bytes:
        files = {
            file.path: {"sha256": file.sha256, "size_bytes": file.size_bytes} for file in self.files
        }
        return canonical_json({"files": files, "format": FORMAT})

    @property
    def sha256(self) -> str:
        """The identity of the tree: the hash of its manifest."""
        return sha256_hex(self.to_json())

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def parse_manifest(data: bytes, what: str) -> Manifest:
    """The manifest in `data`; CorruptObject naming `what` when that is not exactly one."""
    try:
        raw = json.loads(data)
        files = tuple(
            TreeFile(path, item["sha256"], item["size_bytes"])
            for path, item in sorted(raw["files"].items())
        )
        manifest = Manifest(files)
        canonical = manifest.to_json() == data
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptObject(f"{what} is not a manifest: {error}") from error
    if not canonical:
        raise CorruptObject(f"{what} is not a manifest of format {FORMAT}")
    return manifest


def manifest_path(prefix: str) -> str:
    return check_path(f"{prefix}.manifest.json")


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in constant memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_below(folder: Path) -> list[str]:
    """Relative POSIX paths of every file, sorted. Links to files count as files."""
    found = []
    for parent, folders, names in os.walk(folder):
        for name in folders:
            if (Path(parent) / name).is_symlink():
                raise BadData(
                    f"{Path(parent) / name} is a link to a folder, which a tree cannot hold; "
                    "replace it by what it points to"
                )
        found += [(Path(parent) / name).relative_to(folder).as_posix() for name in names]
    return sorted(found)


def scan_tree(folder: Path, beat: Beat = quiet, besides: Mapping[str, bytes] = _NONE) -> Manifest:
    """The manifest of a folder on disk.

    besides: files by name that count as lying in the folder, whatever lies there.

    Raises:
        BadData: when there is no such folder, it holds no file, or a link to a folder.
    """
    if not folder.is_dir():
        raise BadData(f"{folder} is not a folder")
    paths = _files_below(folder)
    if not paths:
        raise BadData(f"{folder} holds no file")

    def one(path: str) -> TreeFile:
        file = folder / path
        beat(f"hashing {path}")
        return TreeFile(path, file_sha256(file), file.stat().st_size)

    added = [TreeFile(name, sha256_hex(data), len(data)) for name, data in besides.items()]
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        files = pool.map(one, [path for path in paths if path not in besides])
        return Manifest(tuple(sorted([*files, *added], key=lambda file: file.path)))


def put_content_tree(
    store: Store,
    stage: str,
    key: str,
    folder: Path,
    beat: Beat = quiet,
    *,
    besides: Mapping[str, bytes] = _NONE,
) -> str:
    """Store a folder under its own hash and return its prefix, `stage/key/<manifest sha256>`.

    The manifest is stored last. Idempotent. besides: as `scan_tree` takes it.
    """
    manifest = scan_tree(folder, beat, besides)
    prefix = f"{stage}/{key}/{manifest.sha256}"
    for name, data in besides.items():
        store.put(f"{prefix}/{name}", data)

    def one(file: TreeFile) -> None:
        put_tree_file(store, prefix, folder / file.path, file, beat)

    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        list(pool.map(one, (file for file in manifest.files if file.path not in besides)))
    store.put(manifest_path(prefix), manifest.to_json())
    return prefix


def put_tree_file(store: Store, prefix: str, source: Path, file: TreeFile, beat: Beat) -> None:
    """Store one file of a tree whose manifest somebody else writes once all are there."""
    path = f"{prefix}/{file.path}"
    store.put_file(path, source, file.sha256, lambda: beat(f"storing {path}"))


def read_manifest(store: Store, prefix: str) -> Manifest:
    """The manifest of a stored tree, checked against its hash, which the prefix ends in.

    Raises:
        StoreMissing: when no complete tree is stored there.
        CorruptObject: when the manifest is damaged, or names a file outside the tree.
    """
    where = manifest_path(prefix)
    data = store.get(where)
    if sha256_hex(data) != prefix.rsplit("/", 1)[-1]:
        raise CorruptObject(f"{store.url}: {where} does not hash to what its path says")
    manifest = parse_manifest(data, f"{store.url}: {where}")
    for file in manifest.files:
        try:
            check_path(f"{prefix}/{file.path}")
        except StoreRefused as error:
            raise CorruptObject(f"{store.url}: {where} names a file outside: {error}") from error
    return manifest


def fetch_tree(
    store: Store,
    prefix: str,
    folder: Path,
    beat: Beat = quiet,
    wanted: Callable[[TreeFile], bool] = lambda file: True,
    *,
    free: Free = free_bytes,
) -> Manifest:
    """Make `folder` hold exactly the tree stored under `prefix` (or what of it is `wanted`), every
    byte verified; what that is.

    A folder that is there and differs is kept beside it under another name.

    Raises:
        DiskFull: the disk has no room for it; nothing was fetched.
        CorruptObject: naming the file whose bytes are not what the manifest says; it is moved to
            `quarantine/`.
    """
    files = read_manifest(store, prefix).files
    manifest = Manifest(tuple(file for file in files if wanted(file)))
    if folder.exists():
        if _holds(folder, manifest):
            return manifest
        folder.rename(folder.with_name(f".{folder.name}.damaged-{secrets.token_hex(4)}"))
    part = folder.with_name(f".{folder.name}.part")
    there = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
    check_room(folder.parent, manifest.size_bytes - there, prefix, free)
    _fetch(store, prefix, manifest, part, beat)
    part.rename(folder)
    return manifest


def _holds(folder: Path, manifest: Manifest) -> bool:
    return folder.is_dir() and bool(_files_below(folder)) and scan_tree(folder) == manifest


def _fetch(store: Store, prefix: str, manifest: Manifest, part: Path, beat: Beat) -> None:
    if part.exists():
        wanted = {file.path for file in manifest.files}
        for path in set(_files_below(part)) - wanted:
            (part / path).unlink()

    def one(file: TreeFile) -> None:
        target = part / file.path
        if target.is_file() and file_sha256(target) == file.sha256:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        path = f"{prefix}/{file.path}"
        _fetch_file(store, path, target, file.sha256, lambda: beat(f"fetching {path}"))

    part.mkdir(exist_ok=True)
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        list(pool.map(one, manifest.files))


def _fetch_file(
    store: Store, path: str, target: Path, sha256: str, moved: Callable[[], None]
) -> None:
    if store.get_file(path, target, moved) == sha256:
        return
    target.unlink()
    if (
        store.quarantine(path, unless=sha256) is None
        and store.get_file(path, target, moved) == sha256
    ):
        return
    target.unlink(missing_ok=True)
    raise CorruptObject(f"{store.url}: {path} does not hash to what its manifest says")


def check_tree(store: Store, prefix: str) -> list[str]:
    """What is wrong with a stored tree, one line for each missing or damaged object, [] if nothing.

    Changes nothing: for audits.
    """
    try:
        manifest = read_manifest(store, prefix)
    except (StoreMissing, CorruptObject) as error:
        return [str(error)]

    def one(file: TreeFile) -> str | None:
        path = f"{prefix}/{file.path}"
        if not store.exists(path):
            return f"{path} is missing"
        return None if store.hash_of(path) == file.sha256 else f"{path} is corrupt"

    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        return [line for line in pool.map(one, manifest.files) if line is not None]


def delete_tree(store: Store, prefix: str) -> None:
    """Remove a stored tree, its manifest first: what a crash leaves is no tree, only objects."""
    store.delete(manifest_path(prefix))
    for entry in store.entries(check_path(prefix)):
        store.delete_listed(entry)
