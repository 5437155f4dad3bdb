"""Annotating: from graded rollouts to stored step values, over rounds of completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, takewhile

from pipeline.driver.context import RunContext
from pipeline.driver.sample import SampleStep
from pipeline.phases.steps import Annotate, SampleShards
from pipeline.prm.tasks import AnnotateTask, NextRound
from pipeline.refs import PRM_VALUES, ShardSet
from pipeline.run.events.event import Event
from pipeline.run.events.prm import LabelsMade
from pipeline.run.events.sampling import ObjectLost
from pipeline.stages.evaluate import StoredShard
from pipeline.stages.tasks import TaskDone


@dataclass
class AnnotateStep:
    """An `Annotate` step under way.

        asked ──► next round ──► its completions sampled ──► asked
          └────► step values ──► labels_made

    Doing any of it twice stores the same bytes: after a crash it is done again, and completions
    that are in the store are adopted.
    """

    step: Annotate
    done: bool = False
    _task: AnnotateTask | None = None
    _round: SampleStep | None = None
    _cost_shown: bool = False

    def advance(self, context: RunContext) -> Sequence[Event]:
        """Sample the round that is open, or ask for what comes after it."""
        if self._round is not None:
            events = self._round.advance(context)
            if self._round.done:
                self._round = None
            return events
        self._task = self._task or self._asked(context)
        answer = context.ask(self._task)
        if answer is None:
            return ()
        self._task = None
        if not isinstance(answer, TaskDone):
            self.done = True
            return [context.loss_anywhere(answer.path, answer.reason)]
        if isinstance(answer.value, NextRound):
            return self._sample(context, answer.value)
        self.done = True
        labels: LabelsMade = answer.value
        return [labels]

    def _asked(self, context: RunContext) -> AnnotateTask:
        shards = context.state.shards
        closed = takewhile(
            context.state.closed.__contains__, (ShardSet(PRM_VALUES, number) for number in count())
        )
        return AnnotateTask(
            self.step.policy,
            tuple(StoredShard.of(shard) for _, shard in sorted(shards[self.step.rollouts].items())),
            tuple(
                tuple((shard.key, StoredShard.of(shard)) for _, shard in sorted(of_round.items()))
                for of_round in (shards[purpose] for purpose in closed)
            ),
        )

    def _sample(self, context: RunContext, asked: NextRound) -> Sequence[Event]:
        """Open the sampling of a round; gives up shards that it does not ask for any more.

        What prefixes were chosen by (rollouts, grades, earlier rounds) may have been lost and,
        without `run.deterministic`, have come out otherwise when it was made again.
        """
        if not self._cost_shown:
            self._cost_shown = True
            context.watch.say(str(asked.cost))
        purpose = ShardSet(PRM_VALUES, asked.number)
        step = SampleShards(self.step.stage, purpose, asked.specs, self.step.policy, None)
        self._round = SampleStep(step)
        keys = {spec.index: spec.key for spec in asked.specs}
        reason = "it completes prefixes that are not asked for any more"
        lost = [
            ObjectLost(purpose, index, path=shard.rollout, reason=reason)
            for index, shard in context.state.shards.get(purpose, {}).items()
            if shard.key != keys.get(index)
        ]
        if not lost:
            return self.advance(context)
        context.watch.say(f"{len(lost)} shards of {purpose}: {reason}")
        return lost
