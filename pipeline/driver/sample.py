"""Sampling: the shards of one purpose generated, graded, scored and selected from, as a stream.

A shard is graded as soon as it lands, while later ones are still being generated. What is under way
is held here and nowhere else; the ledger knows what is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pipeline.driver.context import RunContext
from pipeline.errors import RunStopped
from pipeline.generation.fleet import ShardDone, ShardFailed
from pipeline.generation.shards import ShardSpec
from pipeline.phases.steps import SampleShards
from pipeline.run.events.event import Event
from pipeline.run.events.sampling import SamplingClosed, ShardAccepted, ShardGraded, ShardScored
from pipeline.run.shard_answers import GradeDone
from pipeline.run.state import ShardState
from pipeline.stages.adopt import AdoptTask
from pipeline.stages.grade import GradeTask, TaskLost
from pipeline.stages.score import ScoreFailed, Scorer, ScoreTask
from pipeline.stages.tasks import TaskDone
from pipeline.stages.workers import Progress

Role = Literal["fleet", "grader", "scorer"]


class SampleStep:
    """A `SampleShards` step under way. Each shard goes through

        looked for in the store ──► generated ──► accepted ──► graded ──(with a PRM)──► scored
             │                                      ▲  │          │                       │
             └──────────── adopted ─────────────────┘  └── lost ──┴── back a step, or ────┘
                                                                      to the beginning
    and none further than the look-ahead beyond the first that is not done. Shards are handed to the
    engines in plan order.
    """

    def __init__(self, step: SampleShards) -> None:
        self.step = step
        self.done = False
        self._by_key = {spec.key: spec for spec in step.specs}
        self._absent: set[str] = set()  # not in the store, so they are generated
        self._asked: dict[str, Role] = {}  # who has a shard now
        self._shown = (-1, -1)

    def advance(self, context: RunContext) -> Sequence[Event]:
        """Hand out what the look-ahead allows, and take in what has come back."""
        shards = context.state.shards.get(self.step.purpose, {})
        self._show(context, shards)
        specs, ahead = self.step.specs, context.spec.config.generate.lookahead
        first = next((i for i in range(len(specs)) if not self._complete(shards.get(i))), None)
        if first is None:
            self.done = True
            return [SamplingClosed.of(self.step.purpose, shards)]
        window = specs[first : first + ahead]
        events = self._adopted(context, shards, window)
        self._hand_out(context, shards, [spec for spec in window if spec.index not in events])
        self._generated(context, shards, events)
        self._graded(context, shards, events)
        if self.step.scoring is not None:
            self._scored(context, shards, events)
        return list(events.values())

    def _complete(self, shard: ShardState | None) -> bool:
        scored = self.step.scoring is None or (shard is not None and shard.scores is not None)
        return shard is not None and shard.done and scored

    # -- out ------------------------------------------------------------------------------------

    def _adopted(
        self, context: RunContext, shards: Mapping[int, ShardState], window: Sequence[ShardSpec]
    ) -> dict[int, Event]:
        """Look for shards of the window that are in the store already."""
        events: dict[int, Event] = {}
        idle = [spec for spec in window if spec.key not in self._absent | self._asked.keys()]
        tasks = [AdoptTask(spec) for spec in idle if spec.index not in shards]
        for task in tasks:
            context.hand_out(task)
        for task in tasks:
            answer = context.answer(task)
            if isinstance(answer, TaskDone) and answer.value is not None:
                events[task.spec.index] = self._accepted(task.spec, answer.value, adopted=True)
            elif answer is not None:
                self._absent.add(task.key)
        return events

    def _hand_out(
        self, context: RunContext, shards: Mapping[int, ShardState], window: Sequence[ShardSpec]
    ) -> None:
        in_order = True
        for spec in window:
            shard = shards.get(spec.index)
            if spec.key in self._asked or self._complete(shard):
                continue
            if shard is None:
                in_order = in_order and spec.key in self._absent  # else it is still looked for
                if in_order:
                    self._asked[spec.key] = "fleet"
                    self._absent.discard(spec.key)
                    context.workers.fleet.submit(spec, self.step.policy)
            elif not shard.done:
                self._asked[spec.key] = "grader"
                # With a PRM selection waits for its scores.
                rule = self.step.rule if self.step.scoring is None else None
                task = GradeTask.of(
                    context.spec, spec, shard.rollout, shard.bad, rule=rule, vote=self.step.vote
                )
                context.workers.grader.submit(task)
            else:
                self._asked[spec.key] = "scorer"
                self._scorer(context).submit(self._score_task(context, spec, shard))

    def _scorer(self, context: RunContext) -> Scorer:
        if context.workers.scorer is None:
            raise RuntimeError("a step asks for scores, and these workers have no scorer")
        return context.workers.scorer

    def _score_task(self, context: RunContext, spec: ShardSpec, shard: ShardState) -> ScoreTask:
        scoring, rule = self.step.scoring, self.step.rule
        assert scoring is not None
        assert shard.grades is not None
        paths = shard.rollout, shard.grades
        return ScoreTask.of(
            context.spec,
            spec,
            paths,
            shard.bad,
            scoring=scoring,
            rule=rule,
            vote=self.step.vote,
            classes=shard.classes,
        )

    # -- in -------------------------------------------------------------------------------------

    def _back(self, key: str, role: Role) -> ShardSpec | None:
        """The shard that a worker answers for, which it has no longer; None: of another step."""
        if self._asked.get(key) == role:
            del self._asked[key]
        return self._by_key.get(key)

    def _generated(
        self, context: RunContext, shards: Mapping[int, ShardState], events: dict[int, Event]
    ) -> None:
        for answer in context.answers(context.workers.fleet):
            spec = self._back(answer.key, "fleet")
            if spec is None:
                continue
            if isinstance(answer, ShardFailed):
                # What a shard reads may be mended, and then it is handed out again.
                if answer.kind != "lost" or not context.mended(answer.path, answer.reason):
                    raise RunStopped(
                        f"shard {spec.index} of {spec.purpose} could not be generated: "
                        f"{answer.reason}"
                    )
            elif spec.index not in shards:
                events.setdefault(spec.index, self._accepted(spec, answer))

    def _accepted(self, spec: ShardSpec, done: ShardDone, adopted: bool = False) -> ShardAccepted:
        return ShardAccepted(self.step.purpose, spec.index, adopted=adopted, **vars(done))

    def _graded(
        self, context: RunContext, shards: Mapping[int, ShardState], events: dict[int, Event]
    ) -> None:
        for answer in context.answers(context.workers.grader):
            spec = self._back(answer.key, "grader")
            shard = shards.get(spec.index) if spec is not None else None
            if spec is None or shard is None or shard.done or spec.index in events:
                continue
            if isinstance(answer, GradeDone) and answer.rollout == shard.rollout:
                events[spec.index] = ShardGraded(self.step.purpose, spec.index, **vars(answer))
            elif isinstance(answer, TaskLost) and answer.path == shard.rollout:
                lost = context.loss(self.step.purpose, answer.path, answer.reason)
                events[spec.index] = lost

    def _scored(
        self, context: RunContext, shards: Mapping[int, ShardState], events: dict[int, Event]
    ) -> None:
        for answer in context.answers(self._scorer(context)):
            spec = self._back(answer.key, "scorer")
            shard = shards.get(spec.index) if spec is not None else None
            if spec is None or shard is None or self._complete(shard) or spec.index in events:
                continue
            if isinstance(answer, ScoreFailed):
                lost = self._score_failed(context, spec, shard, answer)
                if lost is not None:
                    events[spec.index] = lost
            elif answer.rollout == shard.rollout and shard.done:
                events[spec.index] = ShardScored(self.step.purpose, spec.index, **vars(answer))

    def _score_failed(
        self, context: RunContext, spec: ShardSpec, shard: ShardState, answer: ScoreFailed
    ) -> Event | None:
        """The event that gives up what a scorer could not read; None: the shard is scored again.

        Raises:
            RunStopped: nothing can be made again, or it is no loss at all.
        """
        name = f"shard {spec.index} of {self.step.purpose}"
        if answer.kind == "lost":
            if answer.path in (shard.rollout, shard.grades, shard.classes, shard.scores):
                return context.loss(self.step.purpose, answer.path, answer.reason)
            if context.mended(answer.path, answer.reason):
                return None
        raise RunStopped(f"{name} could not be scored: {answer.reason}")

    def _show(self, context: RunContext, shards: Mapping[int, ShardState]) -> None:
        done = sum(map(self._complete, shards.values()))
        tokens = sum(shard.tokens for shard in shards.values())
        if (done, tokens) != self._shown:
            self._shown = (done, tokens)
            waiting = "until the first: engines start, load the policy"
            note = f"{tokens} tokens" if tokens else waiting
            total = len(self.step.specs)
            context.watch.progress(Progress(self.step.stage, done, total, "shards", note))
