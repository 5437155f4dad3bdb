"""Tokens to text, as a policy's own processor does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.model.processor import load_processor
from pipeline.refs import PolicyRef
from pipeline.storage.artifacts import needed
from pipeline.storage.store import Store
from pipeline.storage.tree_cache import TreeCache


class PolicyDecoders:
    """The decoder of any policy in the store. cache: where what it fetches of policies stays.
    trusted: as `load_processor` takes it."""

    def __init__(self, store: Store, cache: TreeCache, *, trusted: bool = False) -> None:
        self._store = store
        self._cache = cache
        self._trusted = trusted

    def __call__(self, policy: PolicyRef) -> Callable[[Sequence[int]], str]:
        with (
            needed(policy.path),
            self._cache.tree(self._store, policy.path, weights=False) as folder,
        ):
            return load_processor(folder, weights=False, trusted=self._trusted).decode
