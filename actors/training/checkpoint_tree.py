"""A checkpoint as a tree of the store: its parts, from every rank, and what it says of itself.

Always: it lies under the hash of its content and nothing else, so equal states of two runs are one
checkpoint; it is there when, and only when, its manifest is, which is written after every part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.hashing import canonical_json, sha256_hex
from pipeline.storage.store import Store
from pipeline.storage.trees import Manifest, TreeFile, manifest_path

FORMAT = 1
MANIFEST = "checkpoint.json"
STAGE, KEY = "checkpoints", "learner"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint by what it holds, before or after all of it is in the store.

    facts: the bytes of `checkpoint.json`.
    """

    manifest: Manifest
    facts: bytes

    @classmethod
    def of(cls, parts: Sequence[TreeFile], facts: Mapping[str, Any]) -> Checkpoint:
        """The checkpoint of these parts, one of each rank."""
        files = {part.path: part.sha256 for part in parts}
        data = canonical_json({"format": FORMAT, "files": files, **facts}) + b"\n"
        own = TreeFile(MANIFEST, sha256_hex(data), len(data))
        return cls(Manifest(tuple(sorted((own, *parts), key=lambda file: file.path))), data)

    @property
    def path(self) -> str:
        """Where it lies in the store: under the hash of its content, whoever wrote it."""
        return f"{STAGE}/{KEY}/{self.manifest.sha256}"

    def complete(self, store: Store) -> None:
        """Once every part is in the store: from now on it is a checkpoint."""
        store.put(f"{self.path}/{MANIFEST}", self.facts)
        store.put(manifest_path(self.path), self.manifest.to_json())
