"""A store with selections in it, and learners over a scripted group."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.training.checkpoint_tree import Checkpoint
from actors.training.group import ranks_failed
from actors.training.learner import GroupLearner
from actors.training.source import Source
from pipeline.config.schema import Config
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.prompts import prompt_hash
from pipeline.records import Rollout, Selected
from pipeline.refs import CheckpointRef
from pipeline.simulation.small_trees import put_small_tree
from pipeline.storage.artifacts import needed, put_content
from pipeline.storage.models import policy_at
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store, open_store
from pipeline.storage.tree_cache import TreeCache
from pipeline.storage.trees import TreeFile, read_manifest
from pipeline.training.batches import batches
from pipeline.training.job import (
    LearnDone,
    LearnEvent,
    LearnJob,
)
from pipeline.training.job import LearnFailed as Failed
from pipeline.training.metrics import TrainMetrics
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings, Span
from tests.support.scripted import make_program

SIZES = {"batch_size": 4, "window": 64}


class FakeProcessor:
    """A prompt's ids are its characters. made: how many it has made ids of."""

    made = 0

    def prompt(self, text: str, n_images: int, system: str = "") -> str:
        return f"<{text}>"

    def input_ids(
        self, prompt: str, images: tuple[str, ...], open_image: Callable[[str], Any]
    ) -> tuple[int, ...]:
        self.made += 1
        return tuple(map(ord, prompt))

    def response_ids(self, text: str) -> tuple[int, ...]:
        return (*map(ord, text), 0)


class FakeGroup:
    """Its memory is a digest of everything it was trained on; dies at the steps in `dies_at`."""

    started: int = 0

    def __init__(self, store: Store, settings: LearnSettings, source: Source) -> None:
        FakeGroup.started += 1
        self.store = store
        self.log: list[str] = []
        self.dies_at: set[int] = set()
        self.spans: list[Span | None] = []
        self.offset = 0.0
        self.closed = False
        self.slow = False  # whether checkpoints are on their way until somebody waits for them
        self.settings = settings
        self._open(source)

    def _open(self, source: Source) -> None:
        self.source = source
        with needed(source.policy):
            model = json.loads(self.store.get(f"{source.policy}/model.json"))
        self.digest, self.step = str(model["trained"]), 0
        if source.checkpoint is not None:
            with needed(source.checkpoint):
                read_manifest(self.store, source.checkpoint)
                held = json.loads(self.store.get(f"{source.checkpoint}/state.json"))
            self.digest, self.step = held["digest"], held["step"]
            if self.settings.inherit == "weights":
                self.step = 0

    def reset(self, source: Source, settings: LearnSettings) -> dict[str, Any]:
        self.log.append("reset")
        self.settings = settings
        self._open(source)
        return {"step": self.step}

    def train(
        self,
        rows: Sequence[TrainRow],
        seed: int,
        *,
        first: int = 0,
        last: int | None = None,
        span: Span | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> TrainMetrics:
        self.log.append("train")
        self.spans.append(span)
        plan_S = batches([row.length for row in rows], seed, **SIZES)[first:last]
        tokens = 0
        for number, batch in enumerate(plan_S, 1):
            if progress is not None:
                progress(f"rank 0: step {number} of {len(plan_S)}")
            if self.step in self.dies_at:
                self.dies_at.discard(self.step)
                raise ranks_failed("rank 0 died")
            ids = [list(rows[index].token_ids_T) for index in batch]
            self.digest = sha256_hex(canonical_json([self.digest, ids]))
            self.step += 1
            tokens += sum(map(len, ids))
        return TrainMetrics(
            loss=0.5,
            loss_S=(0.5,) * len(plan_S),
            grad_norm_S=tuple(float(self.step - len(plan_S) + n) for n in range(len(plan_S))),
            steps=len(plan_S),
            step=self.step,
            rows=sum(map(len, plan_S)),
            tokens=tokens,
            grad_norm=0.0,
            grad_norm_max=0.0,
            learning_rate=self.settings.learning_rate,
            seconds=1.0,
        )

    def logprobs(
        self, rows: Sequence[TrainRow], temperature: float, top_p: float = 1.0
    ) -> list[tuple[float, ...]]:
        return [tuple(-0.5 + self.offset for _ in row.token_ids_T) for row in rows]

    def checkpoint(self, cursor: dict[str, Any]) -> Checkpoint:
        data = canonical_json({"digest": self.digest, "step": self.step, "cursor": cursor})
        part = TreeFile("state.json", sha256_hex(data), len(data))
        made = Checkpoint.of([part], {"step": self.step, "cursor": cursor})
        self.store.put(f"{made.path}/state.json", data)
        return made

    def stored(self, checkpoint: Checkpoint) -> bool:
        return not self.slow

    def settle(self) -> None:
        self.log.append("settle")

    def publish(self) -> str:
        return put_small_tree(self.store, "policies", "model.json", {"trained": self.digest})

    def close(self) -> None:
        self.closed = True


class Bench:
    """A store with selections in it, and learners over it."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.config = config
        self.program = make_program(config)
        self.store: Store = open_store("memory://")
        self.groups: list[FakeGroup] = []
        self.prepare: Callable[[FakeGroup], None] = lambda group: None
        base = put_small_tree(self.store, "policies", "model.json", {"trained": "base"})
        self.base = policy_at(base)

    def start(self, settings: LearnSettings, source: Source) -> FakeGroup:
        self.groups.append(FakeGroup(self.store, settings, source))
        self.prepare(self.groups[-1])
        return self.groups[-1]

    def learner(self, name: str = "a") -> GroupLearner:
        return GroupLearner(
            self.config,
            self.store,
            self.program.by_hash,
            TreeCache(self.folder / name),
            self.start,
            processors=lambda folder: FakeProcessor(),  # type: ignore[arg-type, return-value]
        )

    def selection(self, start: int, rows: int, prompt_sha256: str | None = None) -> str:
        """Selected responses, stored, and the rollouts that they are of; with a `prompt_sha256` of
        their own, of rollouts that are lost."""
        sampled = [self._rollout(index) for index in range(start, start + rows)]
        shard = f"shards/rollout/k/{'0' * 64}.parquet"
        if prompt_sha256 is None:
            shard = put_content(self.store, "rollout", "k", to_parquet(sampled, Rollout), "parquet")
        made = [
            Selected(
                query=one.query,
                query_id=one.query_id,
                sample_index=one.sample_index,
                rollout_shard=shard,
                token_ids=one.token_ids,
                logprobs=one.logprobs,
                prompt_sha256=one.prompt_sha256 if prompt_sha256 is None else prompt_sha256,
                reward=1.0,
            )
            for one in sampled
        ]
        return put_content(self.store, "select", "k", to_parquet(made, Selected), "parquet")

    def _rollout(self, index: int) -> Rollout:
        query = self.program.by_hash[self.program.pool[index % 12]]
        prompt = tuple(map(ord, f"<{query.question}>"))
        ids = tuple(range(1, 3 + index % 5))
        return Rollout(
            query=query.content_hash, query_id=query.query_id, sample_index=index, seed=index,
            policy=self.base.version, temperature=1.0, top_p=1.0,
            prompt_sha256=prompt_hash(prompt), prompt_tokens=len(prompt), token_ids=ids,
            logprobs=tuple(-0.5 for _ in ids), text="", finish="stop",
        )  # fmt: skip

    def job(self, name: str, data: Sequence[str], **changes: Any) -> LearnJob:
        plain = LearnJob(name, None, self.base, tuple(data), 0, 2, None, 1e-3)
        return replace(plain, **changes)


def run(
    learner: GroupLearner, job: LearnJob, resume: CheckpointRef | None = None
) -> list[LearnEvent]:
    """All events of a job, to its end."""
    learner.submit(job, resume)
    events: list[LearnEvent] = []
    for _ in range(12000):
        events += learner.poll()
        if events and isinstance(events[-1], LearnDone | Failed):
            return events
        time.sleep(0.01)
    raise AssertionError("the job did not end")


def done(events: list[LearnEvent]) -> LearnDone:
    assert isinstance(events[-1], LearnDone), events[-1]
    return events[-1]
