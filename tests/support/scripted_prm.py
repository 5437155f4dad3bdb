"""A scripted world with a process reward model: responses of several steps, completions, scores.

A response is "a<i>", "b<j>" and an answer, one token for each character. A step with an odd number
is a bad one: completions from it are right less often, and the scripted PRM gives it less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from pipeline.driver.driver import Driver
from pipeline.errors import ArtifactLost
from pipeline.generation.shards import ShardSpec
from pipeline.query import Query
from pipeline.records import Rollout, Score, StepValues
from pipeline.refs import PolicyRef
from pipeline.responses import step_ends
from pipeline.run.events.event import Event
from pipeline.run.ledger import Ledger
from pipeline.selection.rewards import reward_p
from pipeline.stages.score import ScoreDone, ScoreFailed, ScoreTask, score_shard, scored_how
from pipeline.stages.tasks import InProcess, TaskContext
from pipeline.stages.workers import Workers
from pipeline.storage.artifacts import read_rows
from pipeline.storage.store import Store
from pipeline.storage.trees import get_tree
from pipeline.training.job import LearnJob
from tests.support.driving import Bench
from tests.support.scripted_world import (
    BATCH,
    ENGINE,
    Mail,
    ScriptedFleet,
    ScriptedGrader,
    ScriptedLearner,
    sampled,
    share,
)


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode()


class PrmFleet(ScriptedFleet):
    """As its parent, with steps, and with completions of prefixes, some of which are cut."""

    def _samples(self, spec: ShardSpec, query: Query, skill: float) -> list[Rollout]:
        if spec.prompt == "warmup":
            return super()._samples(spec, query, skill)
        return [
            self._response(spec, query, part.first_index + i, seed, decode(part.prefix))
            for part in spec.parts(query.content_hash)
            for i, seed in enumerate(part.seeds)
        ]

    def _response(
        self, spec: ShardSpec, query: Query, index: int, seed: int, prefix: str
    ) -> Rollout:
        text, luck = prefix, seed if spec.sampling.temperature else query.content_hash
        for name in "ab":
            if name not in text:
                text += f"{name}{int(3 * share(name, luck))}\n\n"
        bad = sum(character == "1" for character in text)
        answer = query.answer if share("answer", luck) < (0.9, 0.4, 0.1)[bad] else "no"
        text += f"# Answer\n\n{answer}"
        ids = tuple(text.removeprefix(prefix).encode())
        cut = bool(prefix) and share("cut", luck) < 0.1
        return sampled(spec, query, (index, seed), text, ids, cut=cut)


class PrmLearner(ScriptedLearner):
    """As its parent; a PRM's rows are step values."""

    def _batches(self, job: LearnJob) -> list[list[str]]:
        if job.prm is None:
            return super()._batches(job)
        rows: list[str] = []
        for path in job.data:
            found: list[StepValues] = read_rows(self.store, path, StepValues)
            rows += [f"{row.query}/{row.values}" for row in found if not row.held_out]
        return [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]


class ScriptedScorer:
    """The real scoring stage with a scripted PRM, answering at the next poll.

    quality: 1.0 tells good steps from bad ones, 0.0 says nothing. longest: tokens of a response
    above which it is too long to be scored; None: none is. asked: every task, and the rows of it
    that were scored. fail: every shard fails like this.
    """

    def __init__(
        self, store: Store, kind: str = "head", quality: float = 1.0, longest: int | None = None
    ) -> None:
        self.store = store
        self.kind = kind
        self.quality = quality
        self.longest = longest
        self.fail = ""
        self.asked: list[tuple[ScoreTask, list[Rollout]]] = []
        self._ended: list[ScoreDone | ScoreFailed] = []

    def submit(self, task: ScoreTask) -> None:
        self._ended.append(self._answer(task))

    def _answer(self, task: ScoreTask) -> ScoreDone | ScoreFailed:
        if self.fail:
            return ScoreFailed(task.key, self.fail)
        try:
            return score_shard(
                self.store,
                task,
                lambda rows: self._score_many(task, rows),
                engine=ENGINE,
                kind=self.kind,
                clock=lambda: 0.0,
            )
        except ArtifactLost as lost:
            return ScoreFailed(task.key, lost.reason, "lost", lost.path)

    def _score_many(self, task: ScoreTask, rows: Sequence[Rollout]) -> list[Score | str]:
        self.asked.append((task, list(rows)))
        most = self.longest
        return [
            "too_long" if most is not None and len(row.token_ids) > most else self._score(row, task)
            for row in rows
        ]

    def _score(self, row: Rollout, task: ScoreTask) -> Score:
        ends = tuple(step_ends(row.token_ids, decode))
        steps = [row.text[end - 3] for end in ends]
        scores = tuple(
            0.5 + self.quality * (share(row.text, i) / 4 if step != "1" else -0.4)
            for i, step in enumerate(steps)
        )
        reward = reward_p(scores, task.scoring.aggregate)
        return Score(row.query, row.sample_index, ends, scores, reward)

    def poll(self) -> list[ScoreDone | ScoreFailed]:
        ended, self._ended = self._ended, []
        return ended


class PrmBench(Bench):
    """A bench whose world has scorers."""

    quality = 1.0
    longest: int | None = None
    scorer: ScriptedScorer

    def driver(self, seed: int = 0, twice: float = 0.0) -> Driver:
        store, random = self.store, Random(seed)
        self.fleet = PrmFleet(store, self.program.by_hash, Mail(random, twice))
        self.learner = PrmLearner(store, random)
        self.grader = ScriptedGrader(store, Mail(random, twice))
        kind = scored_how(self.config)
        self.scorer = ScriptedScorer(store, kind, self.quality, self.longest)
        world = Workers(
            self.fleet,
            self.grader,
            self.learner,
            InProcess(TaskContext(store, self.program, lambda policy: decode)),
            scorer=self.scorer,
            decoder=lambda policy: decode,
        )
        return Driver(
            self.program,
            store,
            Ledger(store, self.program.config.run.name),
            world,
            self.watch,
            clock=self.clock,
            sleep=self.clock.sleep,
        )


def after_commits(driver: Driver, then: Callable[[str, Sequence[Any]], None]) -> None:
    """From now on `then(stage, events)` is called after everything that the driver commits, with
    events as they are in the ledger."""
    commit = driver.commit

    def both(stage: str, events: Sequence[Any]) -> None:
        commit(stage, events)
        then(stage, [e.to_wire() if isinstance(e, Event) else e for e in events])

    driver.commit = both  # type: ignore[method-assign]


def card_in(store: Store, prm: PolicyRef, folder: Path) -> str:
    """The text of the card in a published PRM."""
    get_tree(store, prm.path, folder)
    return (folder / "prm_card.json").read_text()
