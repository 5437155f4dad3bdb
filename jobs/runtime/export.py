"""A policy of a run as a folder that a person can open, with a card of its own."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.refs import PolicyRef
from pipeline.storage.store import Store
from pipeline.storage.trees import Manifest, fetch_tree, read_manifest, scan_tree

CARD = "README.md"


def export_policy(
    store: Store, policy: PolicyRef, folder: Path, card: str, say: Callable[[str], None] = print
) -> None:
    """Make `folder` a complete copy of a policy, every byte verified, with `card` as its README.md.

    A folder that holds the policy already gets the card; one that holds anything else is moved
    aside.

    Raises:
        CorruptObject, StoreMissing: the policy is damaged or gone.
    """
    wanted = read_manifest(store, policy.path)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if folder.exists():
        if _files(scan_tree(folder)) == _files(wanted):
            (folder / CARD).write_text(card, "utf-8")
            return
        aside = folder.with_name(f"{folder.name}-{secrets.token_hex(4)}")
        folder.rename(aside)
        say(f"{folder} held something else, which is now {aside}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}.export")
    fresh = scratch / "policy"
    shutil.rmtree(fresh, ignore_errors=True)  # complete, but not moved: its card may be another's
    scratch.mkdir(exist_ok=True)
    fetch_tree(store, policy.path, fresh)
    (fresh / CARD).write_text(card, "utf-8")
    fresh.rename(folder)
    shutil.rmtree(scratch)


def _files(manifest: Manifest) -> dict[str, str]:
    return {file.path: file.sha256 for file in manifest.files if file.path != CARD}
