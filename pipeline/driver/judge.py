"""Judging a PRM: its held-out responses scored, its card written, and whether it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config.schema import Config
from pipeline.driver.context import RunContext
from pipeline.driver.sample import SampleStep
from pipeline.phases.prm import TRAINED
from pipeline.phases.steps import JudgePrm
from pipeline.prm.annotation import excluded_of
from pipeline.prm.tasks import HeldOutTask, JudgeTask, Verdict
from pipeline.run.events.event import Event
from pipeline.run.events.prm import PrmJudged
from pipeline.run.events.sampling import ObjectLost
from pipeline.stages.evaluate import StoredShard
from pipeline.stages.score import Scoring
from pipeline.stages.tasks import TaskDone


@dataclass
class JudgeStep:
    """A `JudgePrm` step under way.

    held-out responses ──► scored ──► verdict ──► prm_judged
    """

    step: JudgePrm
    done: bool = False
    _task: HeldOutTask | JudgeTask | None = None
    _scores: SampleStep | None = None

    def advance(self, context: RunContext) -> Sequence[Event]:
        """Score the responses, or ask for what comes before or after it."""
        labels = context.state.labels
        assert labels is not None
        if self._scores is not None and not self._scores.done:
            return self._scores.advance(context)
        if self._scores is not None and not isinstance(self._task, JudgeTask):
            self._task = self._asked(context, labels)
        task = self._task = self._task or HeldOutTask(labels["path"])
        answer = context.ask(task)
        if answer is None:
            return ()
        if isinstance(answer, TaskDone) and isinstance(task, HeldOutTask):
            aggregate = context.spec.config.prm.aggregate
            scoring = Scoring(self.step.prm, answer.value, aggregate)
            step = replace(self.step.rollouts, stage=self.step.stage, rule=None, scoring=scoring)
            self._scores = SampleStep(step)
            return self._scores.advance(context)
        self.done = True
        if isinstance(answer, TaskDone):
            return self._judged(context, answer.value)
        if answer.path == labels["path"]:
            return [context.labels_lost(answer.path, answer.reason)]
        return [context.loss_anywhere(answer.path, answer.reason)]

    def _asked(self, context: RunContext, labels: dict[str, Any]) -> JudgeTask:
        state = context.state
        shards = [shard for _, shard in sorted(state.shards[self.step.rollouts.purpose].items())]
        return JudgeTask(
            prm=self.step.prm,
            policy=state.policies["warmup"].version,
            labels=labels,
            training=state.jobs[TRAINED].report,
            shards=tuple(map(StoredShard.of, shards)),
            excluded=tuple(excluded_of(shards)),
        )

    def _judged(self, context: RunContext, verdict: Verdict | None) -> Sequence[Event]:
        if verdict is None:
            return self._of_others(context)
        prm, reasons = verdict.published, verdict.reasons
        used = not reasons or context.spec.config.prm.use_anyway
        context.watch.say(in_words(reasons, used, context.spec.config))
        return [PrmJudged(prm.version, prm.path, used, reasons, verdict.card)]

    def _of_others(self, context: RunContext) -> Sequence[Event]:
        """The step values are of responses that were lost and came out otherwise: both are made
        again."""
        purpose, reason = self.step.rollouts.purpose, "responses were lost and came out otherwise"
        assert context.state.labels is not None
        return [
            *(
                ObjectLost(purpose, index, path=shard.scores or "", reason=reason)
                for index, shard in context.state.shards[purpose].items()
            ),
            context.labels_lost(context.state.labels["path"], reason),
        ]


def in_words(reasons: Sequence[str], used: bool, config: Config) -> str:
    """One line on what becomes of a judged PRM."""
    if not reasons:
        return "the process reward model passes its gate and is used"
    short = "; ".join(reasons)
    if used:
        return f"the process reward model does not pass its gate ({short}); prm.use_anyway uses it"
    instead = "drawn at random"
    if config.select.rule == "threshold":
        instead = "all kept"
    elif config.select.otherwise == "logprob":
        instead = "ranked by their log-likelihood under the policy"
    return f"the process reward model is not used: {short}. Responses are {instead} instead"
