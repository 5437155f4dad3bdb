"""What the ranks of a learner begin from, and where they find and leave things: by the store alone.

No path of the driver's disk is in it, so ranks may be on any node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actors.supervision.node_cache import tree_cache
from pipeline.storage.artifacts import needed
from pipeline.storage.store import Store
from pipeline.storage.tree_cache import TreeCache
from pipeline.storage.trees import Beat


@dataclass(frozen=True)
class Source:
    """Weights and optimizer that training begins from.

    policy, checkpoint: their paths in the store; no checkpoint: a new optimizer on the policy.
    head: for a process reward model, whose policy gets a head of zeros; likelihood: and a weight
    for the log-likelihood.
    """

    policy: str
    checkpoint: str | None = None
    head: bool = False
    likelihood: bool = False


@dataclass(frozen=True)
class Means:
    """What a rank works with; pickled to it.

    store: the run's. images: bytes of an image by content hash. cache: where its node keeps trees
    (`actors.supervision.node_cache.cache_place`).
    """

    store: Store
    images: Callable[[str], bytes]
    cache: str | None

    def trees(self) -> TreeCache:
        """This node's trees."""
        return tree_cache(self.cache)


@contextmanager
def policy_folder(means: Means, source: Source, beat: Beat) -> Iterator[Path]:
    """The source's policy on this node's disk, with a head where it has one.

    Raises:
        ArtifactLost: it is corrupt or gone.
    """
    cache = means.trees()
    with needed(source.policy), cache.tree(means.store, source.policy, beat) as policy:
        if not source.head:
            yield policy
            return
        from actors.model.value_head import write_headed

        def write(folder: Path) -> None:
            write_headed(policy, folder, likelihood=source.likelihood)

        name = "head-likelihood" if source.likelihood else "head"
        with cache.derived(source.policy, name, write, beat) as headed:
            yield headed


@contextmanager
def checkpoint_folder(means: Means, source: Source, beat: Beat) -> Iterator[Path | None]:
    """The source's checkpoint on this node's disk; None where it has none.

    Raises:
        ArtifactLost: it is corrupt or gone.
    """
    if source.checkpoint is None:
        yield None
        return
    tree = means.trees().tree(means.store, source.checkpoint, beat)
    with needed(source.checkpoint), tree as folder:
        yield folder
