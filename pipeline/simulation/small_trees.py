"""Model and checkpoint folders of one small JSON file, in the store's own form."""

from __future__ import annotations

import json
from typing import Any

from pipeline.errors import ArtifactLost
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.storage.artifacts import needed
from pipeline.storage.store import Store
from pipeline.storage.trees import Manifest, TreeFile, manifest_path, read_manifest


def put_small_tree(store: Store, stage: str, name: str, content: object) -> str:
    """`put_content_tree` of one small file, without its threads and folders."""
    data = canonical_json(content)
    manifest = Manifest((TreeFile(name, sha256_hex(data), len(data)),))
    prefix = f"{stage}/model/{manifest.sha256}"
    store.put(f"{prefix}/{name}", data)
    store.put(manifest_path(prefix), manifest.to_json())
    return prefix


def read_small_tree(store: Store, prefix: str, name: str) -> dict[str, Any]:
    """What `put_small_tree` put.

    Raises:
        ArtifactLost: a byte of it is not what was put.
    """
    with needed(prefix):
        (file,) = read_manifest(store, prefix).files
        data = store.get(f"{prefix}/{name}")
    if sha256_hex(data) != file.sha256:
        raise ArtifactLost(prefix, f"{prefix}/{name} does not hash to what its manifest says")
    content: dict[str, Any] = json.loads(data)
    return content
