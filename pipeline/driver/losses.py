"""Objects of the PRM's phase that are corrupt or gone: which event gives them up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArtifactLost, RunStopped
from pipeline.run.state import ShardState

if TYPE_CHECKING:
    from pipeline.driver.driver import Driver


def give_up_shards(
    purpose: str, shards: Mapping[int, ShardState], what: str, reason: str
) -> list[dict[str, Any]]:
    """Events that give up one object of each of some shards: their `rollout`, or their `scores`."""
    return [
        {"type": "object_lost", "purpose": purpose, "index": index}
        | {"path": getattr(shard, what), "reason": reason}
        for index, shard in shards.items()
    ]


def lose_object(driver: Driver, stage: str, lost: ArtifactLost) -> None:
    """Name a lost object of whichever purpose of the PRM it belongs to."""
    for purpose, shards in driver.state.shards.items():
        for shard in shards.values():
            if lost.path in (shard.rollout, shard.grades, shard.scores):
                driver.commit(stage, [driver.loss(purpose, lost.path, lost.reason)])
                return
    raise RunStopped(f"{lost.path} is corrupt or gone, and nothing can make it again: {lost}")


def lose_labels(driver: Driver, stage: str, path: str, reason: str) -> None:
    """The step values cannot be used any more: they are made again from what they were made of.

    Raises:
        RunStopped: they are lost again and again, or it is not they that are lost.
    """
    if driver.state.labels is None or path != driver.state.labels["path"]:
        raise RunStopped(f"{path} is corrupt or gone, and nothing can make it again: {reason}")
    driver.count_loss("the step values", path, reason)
    driver.commit(stage, [{"type": "labels_lost", "path": path, "reason": reason}])
