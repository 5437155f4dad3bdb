"""Finished jobs in a store, found by what they trained, and checkpoints that several runs use.

    jobs/<key>/<sha256>.json     what a job with this key gave; equal results, one object
    needed/<sha256>/<run>        a mark: this run needs the checkpoint with this hash

What always holds:

* a run names a checkpoint in its ledger only while its mark stands beside it, and a checkpoint is
  deleted only when no mark is left: equal jobs of two runs share one, and each goes on from it;
* a job is found only while its checkpoint is there.

The order of calls keeps that true whatever happens at once: who adopts marks first and looks
afterwards; who deletes removes what leads there first and looks for marks afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pipeline.errors import CorruptObject, StoreMissing
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.refs import CheckpointRef, PolicyRef
from pipeline.storage.artifacts import get_verified, hash_in
from pipeline.storage.store import Store
from pipeline.storage.trees import delete_tree, manifest_path, read_manifest
from pipeline.training.job import LearnDone, LearnJob

JOBS = "jobs"
NEEDED = "needed"


def record(store: Store, key: str, done: LearnDone, numerics: dict[str, Any]) -> None:
    """Let other runs find what a job gave. numerics: what its last bits depend on."""
    given = {name: value for name, value in asdict(done).items() if name != "seconds"}
    data = canonical_json({"done": given, "numerics": numerics})
    store.put(f"{JOBS}/{key}/{sha256_hex(data)}.json", data)


def find(
    store: Store, run: str, job: LearnJob, numerics: dict[str, Any] | None
) -> LearnDone | None:
    """What a job with the same key gave to another run, its checkpoint now marked as this run's;
    None: it is to be trained. The smallest hash wins.

    numerics: None, or what must be equal because the last bits matter.
    """
    for path in store.list(f"{JOBS}/{job.key}"):
        done = _read(store, path, numerics)
        if done is None or done.job != job.name:
            continue
        mark(store, run, done.checkpoint.path, job.key)
        if store.exists(path) and all(
            _complete(store, tree) for tree in (done.checkpoint.path, done.policy.path)
        ):
            return done
        store.delete(_mark_of(done.checkpoint.path, run))
    return None


def _read(store: Store, path: str, numerics: dict[str, Any] | None) -> LearnDone | None:
    try:
        held = json.loads(get_verified(store, path))
    except (StoreMissing, CorruptObject):
        return None
    if numerics is not None and held["numerics"] != json.loads(canonical_json(numerics)):
        return None
    done = held["done"]
    return LearnDone(
        **{
            **done,
            "checkpoint": CheckpointRef(**done["checkpoint"]),
            "policy": PolicyRef(**done["policy"]),
            "seconds": 0.0,
        }
    )


def _complete(store: Store, tree: str) -> bool:
    try:
        read_manifest(store, tree)
    except (StoreMissing, CorruptObject):
        return False
    return True


def mark(store: Store, run: str, checkpoint: str, key: str) -> None:
    """This run needs a checkpoint, which the job of this key gave or was at."""
    store.replace(_mark_of(checkpoint, run), canonical_json({"job": key}))


def _mark_of(checkpoint: str, run: str) -> str:
    return f"{NEEDED}/{hash_in(checkpoint)}/{run}"


def release(store: Store, run: str, checkpoint: str) -> None:
    """This run needs a checkpoint no longer: it is deleted, unless another run does. Safe to do
    again after a crash at any point."""
    own = _mark_of(checkpoint, run)
    marks = own.rpartition("/")[0]
    try:
        key = str(json.loads(store.get(own))["job"])
    except StoreMissing:  # of an older program; or released before
        key = ""
    if key:
        _forget(store, key, checkpoint)
    store.delete(own)
    if store.list(marks):
        return
    try:
        manifest = store.get(manifest_path(checkpoint))
    except StoreMissing:
        manifest = b""
    store.delete(manifest_path(checkpoint))
    if manifest and store.list(marks):  # equal training ended at this very moment
        store.put(manifest_path(checkpoint), manifest)
        return
    delete_tree(store, checkpoint)


def _forget(store: Store, key: str, checkpoint: str) -> None:
    for path in store.list(f"{JOBS}/{key}"):
        done = _read(store, path, None)
        if done is None or done.checkpoint.path == checkpoint:
            store.delete(path)


def kept_with(store: Store, trees: set[str]) -> Iterator[str]:
    """The finished jobs and the marks that are of use as long as these trees are kept."""
    for path in store.list(JOBS):
        done = _read(store, path, None)
        if done is not None and {done.checkpoint.path, done.policy.path} <= trees:
            yield path
    hashes = {tree.rpartition("/")[2] for tree in trees}
    yield from (path for path in store.list(NEEDED) if path.split("/")[1] in hashes)
