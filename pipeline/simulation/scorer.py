"""A scripted process reward model: it gives bad steps less, as far as its quality allows."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import ArtifactLost
from pipeline.records import Rollout, Score
from pipeline.responses import step_ends
from pipeline.run.shard_answers import ScoreDone
from pipeline.selection.rewards import reward_p
from pipeline.simulation.fleet import ENGINE, decode, share
from pipeline.simulation.mail import Answers, Mail
from pipeline.stages.score import ScoreFailed, ScoreTask, score_shard
from pipeline.storage.store import Store


class ScriptedScorer(Answers):
    """The real scoring stage with a scripted model, answering when the mail does.

    kind: as of `pipeline.stages.score.scored_how`. quality: 1.0 tells good steps from bad ones,
    0.0 says nothing. longest: tokens of a response above which it is too long to be scored; None:
    none is. asked: every task, and the rows of it that were scored. fail: why every shard fails.
    """

    def __init__(self, store: Store, mail: Mail, kind: str = "head") -> None:
        self.store = store
        self.mail = mail
        self.kind = kind
        self.quality = 1.0
        self.longest: int | None = None
        self.fail = ""
        self.asked: list[tuple[ScoreTask, list[Rollout]]] = []

    def submit(self, task: ScoreTask) -> None:
        self.mail.post(self._answer(task))

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
        longest = self.longest
        return [
            "too_long" if longest and len(row.token_ids) > longest else self.score(row, task)
            for row in rows
        ]

    def score(self, row: Rollout, task: ScoreTask) -> Score:
        """The scores of a response's steps: low after a step with the number 1."""
        ends = tuple(step_ends(row.token_ids, decode))
        scores_S = tuple(
            0.5 + self.quality * (share(row.text, i) / 4 if row.text[end - 3] != "1" else -0.4)
            for i, end in enumerate(ends)
        )
        reward = reward_p(scores_S, task.scoring.aggregate)
        return Score(row.query, row.sample_index, ends, scores_S, reward)
