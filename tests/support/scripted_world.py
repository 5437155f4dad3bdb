"""The roles of a run, scripted: engines, grader and learner that are pure functions of what they
are given, answer late, twice or out of order, and can be made to fail.

A policy is a folder that holds a skill (the share of queries it answers right) and a digest of
everything it was ever trained on, in order; so two runs that trained on the same rows in the same
order end with equal policies, and any difference in rows or order shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from pipeline.errors import ArtifactLost, CorruptObject, StoreMissing
from pipeline.generation.fleet import BadQuery, ShardDone, ShardFailed
from pipeline.generation.shards import EngineIdentity, ShardSpec
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.query import Query
from pipeline.records import Rollout, Selected
from pipeline.refs import CheckpointRef, PolicyRef
from pipeline.run.spec import RunSpec
from pipeline.stages.grade import GradeDone, GradeTask, ObjectLost, Ungraded, finish_shard
from pipeline.stages.tasks import InProcess, TaskContext
from pipeline.stages.workers import Workers
from pipeline.storage.artifacts import put_content, read_rows
from pipeline.storage.models import policy_at
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store
from pipeline.storage.trees import Manifest, TreeFile, manifest_path, read_manifest
from pipeline.training.job import (
    LearnDone,
    LearnEvent,
    LearnFailed,
    LearnJob,
    LearnProgress,
    LearnSaved,
)

ENGINE = EngineIdentity("scripted", "1", "float32", 1, 512)

GRADER = "scripted-1"

BATCH = 4


def share(*parts: object) -> float:
    """A number in [0, 1) that is a function of its arguments."""
    return int(sha256_hex(canonical_json(list(parts)))[:13], 16) / 16.0**13


def put_small_tree(store: Store, stage: str, name: str, content: object) -> str:
    """`put_content_tree` of one small file, without its threads and folders."""
    data = canonical_json(content)
    manifest = Manifest((TreeFile(name, sha256_hex(data), len(data)),))
    prefix = f"{stage}/model/{manifest.sha256}"
    store.put(f"{prefix}/{name}", data)
    store.put(manifest_path(prefix), manifest.to_json())
    return prefix


def read_small_tree(store: Store, prefix: str, name: str) -> dict[str, Any]:
    """`get_tree` of one small file; ArtifactLost when a byte of it is not what was put."""
    try:
        (file,) = read_manifest(store, prefix).files
        data = store.get(f"{prefix}/{name}")
    except (CorruptObject, StoreMissing) as error:
        raise ArtifactLost(prefix, str(error)) from error
    if sha256_hex(data) != file.sha256:
        raise ArtifactLost(prefix, f"{prefix}/{name} does not hash to what its manifest says")
    content: dict[str, Any] = json.loads(data)
    return content


def read_image(store: Store, sha: str) -> None:
    """ArtifactLost when a byte of an image is not what was put."""
    try:
        found = sha256_hex(store.get(f"images/{sha}"))
    except StoreMissing as error:
        raise ArtifactLost(f"images/{sha}", str(error)) from error
    if found != sha:
        raise ArtifactLost(f"images/{sha}", f"its bytes hash to {found}")


@dataclass(frozen=True)
class Grading:
    outcome: str
    extracted: str | None
    reason: str | None = None


def grade_many(items: list[tuple[str, Query]]) -> Sequence[Grading]:
    found = []
    for text, query in items:
        answer = text.rpartition("# Answer\n\n")[2]
        outcome = "unparsed" if not answer else "correct" if answer == query.answer else "wrong"
        found.append(Grading(outcome, answer or None))
    return found


class Mail:
    """Answers on their way: given out late, in any order, and some twice.

    What is posted is an answer, or work that gives one when it is delivered.
    """

    def __init__(self, random: Random, twice: float = 0.0) -> None:
        self.random = random
        self.twice = twice
        self.waiting: list[Any] = []
        self.old: list[Any] = []

    def post(self, answer: Any) -> None:
        self.waiting.append(answer)

    def deliver(self) -> list[Any]:
        self.random.shuffle(self.waiting)
        count = self.random.randint(0, len(self.waiting)) if self.waiting else 0
        out, self.waiting = self.waiting[:count], self.waiting[count:]
        out = [answer() if callable(answer) else answer for answer in out]
        if self.old and self.random.random() < self.twice:
            out.append(self.random.choice(self.old))
        self.old += out
        return out


def sampled(
    spec: ShardSpec,
    query: Query,
    place: tuple[int, int],
    text: str,
    tokens: tuple[int, ...],
    *,
    cut: bool,
) -> Rollout:
    """A row as an engine gives it. place: sample index and seed."""
    index, seed = place
    return Rollout(
        query=query.content_hash,
        query_id=query.query_id,
        sample_index=index,
        seed=seed,
        policy=spec.policy,
        temperature=spec.sampling.temperature,
        top_p=spec.sampling.top_p,
        prompt_sha256="0" * 64,
        prompt_tokens=7,
        token_ids=tokens,
        logprobs=tuple(-0.5 for _ in tokens),
        text=text,
        finish="length" if cut else "stop",
    )


class ScriptedFleet:
    """Generates at once, answers when the mail does. `bad` queries always fail, shards with an
    index in `fail` do, and while the object `lost` is set everything that reads it does. With
    `slow` a share of the shards is only generated when their answer is delivered. If it `looks`, it
    reads the images that it is asked about from the store."""

    def __init__(self, store: Store, queries: Mapping[str, Query], mail: Mail) -> None:
        self.store = store
        self.queries = queries
        self.mail = mail
        self.bad: set[str] = set()
        self.fail: set[int] = set()
        self.lost = ""
        self.slow = 0.0
        self.looks = False
        self.generated: list[str] = []

    def submit(self, spec: ShardSpec, policy: PolicyRef) -> None:
        assert policy.version == spec.policy
        if self.lost:
            self.mail.post(ShardFailed(spec.key, "it is corrupt", "lost", self.lost))
            return
        if spec.index in self.fail:
            self.mail.post(ShardFailed(spec.key, "every engine died"))
            return
        self.generated.append(spec.key)
        work = partial(self._generate, spec, policy)
        self.mail.post(work if self.slow and self.mail.random.random() < self.slow else work())

    def _generate(self, spec: ShardSpec, policy: PolicyRef) -> ShardDone | ShardFailed:
        try:
            model = read_small_tree(self.store, policy.path, "model.json")
            for query in spec.queries_Q if self.looks else ():
                for sha in self.queries[query].images:
                    read_image(self.store, sha)
        except ArtifactLost as lost:
            return ShardFailed(spec.key, str(lost), "lost", lost.path)
        rows = [
            row
            for query in spec.queries_Q
            if query not in self.bad
            for row in self._samples(spec, self.queries[query], model["skill"])
        ]
        path = put_content(self.store, "rollout", spec.key, to_parquet(rows, Rollout), "parquet")
        bad = tuple(BadQuery(q, "prompt too long") for q in spec.queries_Q if q in self.bad)
        tokens = sum(len(row.token_ids) for row in rows)
        return ShardDone(spec.key, path, len(rows), tokens, 0.1, "engine-0", bad)

    def _samples(self, spec: ShardSpec, query: Query, skill: float) -> list[Rollout]:
        return [self._sample(spec, query, skill, k) for k in range(spec.sampling.samples)]

    def _sample(self, spec: ShardSpec, query: Query, skill: float, k: int) -> Rollout:
        seed = spec.seed(query.content_hash, k)
        skilled = 0.9 if spec.prompt == "warmup" else skill
        luck = share("luck", seed if spec.sampling.temperature else query.content_hash)
        answer = query.answer if luck < skilled else "no"
        cut = share("cut", seed) < 0.05
        text = f"way {int(4 * share('way', seed))}\n\n# Answer\n\n{'' if cut else answer}"
        tokens = tuple(text.encode())
        return sampled(spec, query, (k, seed), text, tokens, cut=cut)

    def poll(self) -> list[ShardDone | ShardFailed]:
        return self.mail.deliver()


class ScriptedGrader:
    """The real grading stage with a trivial grader, answering when the mail does. Answers to the
    `refused` queries cannot be graded."""

    def __init__(self, store: Store, mail: Mail) -> None:
        self.store = store
        self.mail = mail
        self.refused: set[str] = set()

    def submit(self, task: GradeTask) -> None:
        self.mail.post(finish_shard(self.store, task, self._grade, GRADER, clock=lambda: 0.0))

    def _grade(self, items: list[tuple[str, Query]]) -> list[Grading | Ungraded]:
        return [
            Ungraded("no number") if query.content_hash in self.refused else graded
            for (_, query), graded in zip(items, grade_many(items), strict=True)
        ]

    def poll(self) -> list[GradeDone | ObjectLost]:
        return self.mail.deliver()


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
                model = read_small_tree(self.store, job.policy.path, "model.json")
                work = Training(job, batches, model["trained"], "zero", 0)
            else:
                held = read_small_tree(self.store, start.path, "state.json")
                work = Training(job, batches, held["trained"], held["moments"], start.step)
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
            later = work.job.check_logprobs and work.job.start is not None
            if later and work.cursor == self.fail_at:
                self.fail_at, self.work = 0, None
                self.unread = [LearnFailed(work.job.name, "infrastructure", "rank 0 died")]
        return events

    def _batches(self, job: LearnJob) -> list[list[str]]:
        rows: list[str] = []
        for path in job.data:
            found: list[Selected] = read_rows(self.store, path, Selected)
            rows += [f"{row.query}/{row.sample_index}/{bytes(row.token_ids)!r}" for row in found]
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


def make_world(
    store: Store, program: RunSpec, seed: int = 0, twice: float = 0.0
) -> tuple[Workers, ScriptedFleet, ScriptedLearner]:
    random = Random(seed)
    fleet = ScriptedFleet(store, program.by_hash, Mail(random, twice))
    learner = ScriptedLearner(store, random)
    grader = ScriptedGrader(store, Mail(random, twice))
    stage = InProcess(TaskContext(store, program))
    return Workers(fleet, grader, learner, stage), fleet, learner


class Hooked:
    """A role that tells `hook` before and after each of its calls."""

    def __init__(self, role: Any, name: str, hook: Callable[[str], None]) -> None:
        self._role, self._name, self._hook = role, name, hook

    def submit(self, *args: Any) -> None:
        self._hook(f"before {self._name}.submit")
        self._role.submit(*args)
        self._hook(f"after {self._name}.submit")

    def poll(self) -> Any:
        self._hook(f"before {self._name}.poll")
        answer = self._role.poll()
        self._hook(f"after {self._name}.poll")
        return answer
