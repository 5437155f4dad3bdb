"""Adoption: a rollout shard that another run, or a driver that died, has left in the store."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.generation.adoption import adoptable
from pipeline.generation.fleet import ShardDone
from pipeline.generation.shards import ShardSpec
from pipeline.stages.tasks import StageTask, TaskContext


@dataclass(frozen=True)
class AdoptTask(StageTask):
    """Look for a complete, verified rollout of a shard in the store."""

    spec: ShardSpec

    @property
    def key(self) -> str:
        """That of the shard."""
        return self.spec.key

    def run(self, context: TaskContext) -> ShardDone | None:
        """The shard to adopt; None: there is none, so it must be generated."""
        return adoptable(context.store, self.spec)
