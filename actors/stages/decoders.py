"""Tokens to text, as a policy's own processor does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from actors.model.processor import load_processor
from pipeline.refs import PolicyRef
from pipeline.storage.artifacts import needed
from pipeline.storage.store import Store
from pipeline.storage.trees import get_tree


class PolicyDecoders:
    """The decoder of any policy in the store. folder: where the policies that it fetches stay."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder

    def __call__(self, policy: PolicyRef) -> Callable[[Sequence[int]], str]:
        folder = self._folder / policy.path.rsplit("/", 1)[-1]
        with needed(policy.path):
            get_tree(self._store, policy.path, folder)
        return load_processor(folder).decode
