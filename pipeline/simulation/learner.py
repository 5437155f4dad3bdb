"""A scripted learner: what it ends with is a digest of every row that it trained on, in order.

So two runs that trained on the same rows in the same order end with equal policies, and any
difference in rows or order shows. A policy is a folder that holds this digest and a skill, the
share of queries it answers correctly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from pipeline.errors import ArtifactLost
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.records import Selected, StepValues
from pipeline.refs import CheckpointRef
from pipeline.simulation.fleet import share
from pipeline.simulation.small_trees import put_small_tree, read_small_tree
from pipeline.storage.artifacts import read_rows
from pipeline.storage.models import policy_at
from pipeline.storage.store import Store
from pipeline.training.job import (
    LearnDone,
    LearnEvent,
    LearnFailed,
    LearnJob,
    LearnProgress,
    LearnSaved,
)

BATCH = 4


@dataclass
class Training:
    """Where a job stands: what it has trained on so far, and how many steps."""

    job: LearnJob
    batches: list[list[str]]
    trained: str
    moments: str
    step: int
    cursor: int = 0


@dataclass
class ScriptedLearner:
    """Trains step by step: the digests after a step are a function of those before and its rows.

    fail: how many times the next jobs die; fail_at: it dies once after the
    checkpoint at this step of an iteration's job that goes on from another's.
    save_every: steps between checkpoints inside a job.
    """

    store: Store
    random: Random
    fail: int = 0
    fail_at: int = 0
    save_every: int = 2
    guard: str = ""
    work: Training | None = None
    trained_rows: dict[str, list[str]] = field(default_factory=dict)
    submitted: list[tuple[str, int]] = field(default_factory=list)
    unread: list[LearnEvent] = field(default_factory=list)

    def submit(self, job: LearnJob, resume: CheckpointRef | None) -> None:
        start = resume or job.start
        self.submitted.append((job.name, resume.cursor if resume else 0))
        self.work, self.unread = None, []
        try:
            batches = self._batches(job)
            if start is None:
                begin = job.weights or job.policy
                model = read_small_tree(self.store, begin.path, "model.json")
                work = Training(job, batches, model["trained"], "zero", 0)
            else:
                held = read_small_tree(self.store, start.path, "state.json")
                work = Training(job, batches, held["trained"], held["moments"], start.step)
                if resume is None and job.inherit == "weights":
                    work = Training(job, batches, held["trained"], "zero", 0)
        except ArtifactLost as lost:
            self.unread = [LearnFailed(job.name, "lost", lost.reason, lost.path)]
            return
        work.cursor = resume.cursor if resume else 0
        self.work = work

    def poll(self) -> list[LearnEvent]:
        if self.unread:
            events, self.unread = self.unread, []
            return events
        work = self.work
        if work is None:
            return []
        if self.guard and work.job.check_logprobs:
            self.work = None
            return [LearnFailed(work.job.name, "user", self.guard)]
        if self.fail and self.random.random() < 0.7:
            self.fail -= 1
            self.work = None
            return [LearnFailed(work.job.name, "infrastructure", "rank 1 died")]
        if work.cursor == len(work.batches):
            self.work = None
            return [self._done(work)]
        self._one_step(work, work.batches[work.cursor])
        events = [LearnProgress(work.job.name, work.cursor, len(work.batches), 0.5, 10)]
        if work.cursor % self.save_every == 0 and work.cursor < len(work.batches):
            events.append(LearnSaved(work.job.name, self._save(work)))
            later = work.job.check_logprobs and work.job.first_step > 0
            if later and work.cursor == self.fail_at:
                self.fail_at, self.work = 0, None
                self.unread = [LearnFailed(work.job.name, "infrastructure", "rank 0 died")]
        return events

    def _batches(self, job: LearnJob) -> list[list[str]]:
        if job.prm is not None:
            return self._prm_batches(job)
        rows: list[str] = []
        for path in job.data:
            selected: list[Selected] = read_rows(self.store, path, Selected)
            rows += [f"{row.query}/{row.sample_index}/{bytes(row.token_ids)!r}" for row in selected]
        rows += [f"{query}/gold/{text!r}" for query, text in job.gold]
        batches: list[list[str]] = []
        epoch = 0
        while (job.epochs is None or epoch < job.epochs) and (
            job.max_steps is None or len(batches) < job.max_steps
        ):
            order = list(rows)
            Random(job.epoch_seed(epoch)).shuffle(order)
            batches += [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
            epoch += 1
        return batches[: job.max_steps]

    def _prm_batches(self, job: LearnJob) -> list[list[str]]:
        """Those of a process reward model, whose rows are step values."""
        rows: list[str] = []
        for path in job.data:
            labels: list[StepValues] = read_rows(self.store, path, StepValues)
            rows += [f"{row.query}/{row.values}" for row in labels if not row.held_out]
        return [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]

    def _one_step(self, work: Training, batch: list[str]) -> None:
        self.trained_rows.setdefault(work.job.name, []).extend(batch)
        work.trained = sha256_hex(canonical_json([work.trained, work.moments, batch]))
        work.moments = sha256_hex(canonical_json([work.moments, batch]))
        work.cursor += 1
        work.step += 1

    def _save(self, work: Training) -> CheckpointRef:
        held = {"trained": work.trained, "moments": work.moments, "job": work.job.name}
        path = put_small_tree(self.store, "checkpoints", "state.json", held)
        return CheckpointRef(path, path[-64:], work.job.name, work.cursor, work.step)

    def _done(self, work: Training) -> LearnDone:
        skill = min(0.95, 0.3 + 0.5 * share("skill", work.trained))
        model = {"skill": skill, "trained": work.trained}
        policy = policy_at(put_small_tree(self.store, "policies", "model.json", model))
        rows = sum(map(len, work.batches))
        checkpoint = self._save(work)
        return LearnDone(
            job=work.job.name,
            checkpoint=checkpoint,
            policy=policy,
            steps=work.cursor,
            rows=rows,
            tokens=10 * rows,
            loss=0.5,
            seconds=1.0,
            logprob_deviation=1e-6 if work.job.check_logprobs else None,
        )
