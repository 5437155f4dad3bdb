"""What the learner costs beside a bare DeepSpeed loop: response tokens trained on, by second.

ours: one `LearnerGroup.train` of an interval's rows, from the call to its answer: rows sent to the
ranks, prompts processed, batches collated while others compute, progress told, gradient norms read.
bare: forward, loss, backward and step over the same batches, collated and in memory beforehand, in
a process of its own with the same settings and threads. Every turn trains on other rows, whose
prompts nothing has seen; both have a first turn that is not counted. One rank each.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from actors.model.images import StoreImages
from actors.model.processor import Processor, load_processor
from actors.training.group import LearnerGroup
from actors.training.rank import ENVIRONMENT
from actors.training.source import Means, Source
from jobs.benches.record import Options, Result, by_turns
from jobs.runtime.check_models import check_models
from jobs.runtime.memory import PeakMemory
from jobs.runtime.prepare import load_data, upload_images
from jobs.runtime.ray_cluster import start_ray
from pipeline.datasets.images import decode
from pipeline.generation.slices import labelled
from pipeline.prompts import PromptTemplates, prompt_hash
from pipeline.query import Query
from pipeline.storage.models import publish_folder
from pipeline.storage.store import open_store
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings

QUERIES, RESPONSES = 256, 4

TOKENS = (20, 60)  # of a response, from and to
BAR = 0.90
DETERMINISTIC = "learner-deterministic"

Images = Callable[[str], bytes]


def learner(options: Options) -> Result:
    """As a run trains; by the row DETERMINISTIC, with deterministic kernels only."""
    config = options.config
    check_models(config)
    dataset = load_data(config, options.say)
    store = open_store(options.folder / "store", say=options.say)
    settings = LearnSettings.of(config, ranks=1, deterministic=options.row == DETERMINISTIC)
    policy, images = Path(config.policy.path), StoreImages(store)
    queries, responses = (8, 2) if options.small else (QUERIES, RESPONSES)
    pool = labelled(dataset.split(config.data.train))[: queries * (options.rounds + 1)]
    upload_images(store, dataset, [sha for query in pool for sha in query.images])
    made_of = partial(make_rows, load_processor(policy), images, responses)
    firsts = range(0, len(pool), queries)
    rows_by_turn = [made_of(pool[first : first + queries]) for first in firsts]
    with PeakMemory(5.0, leave_out="ray::BareLoop") as memory, start_ray(config):
        source = Source(publish_folder(store, policy, settings=config.model_settings).path)
        means = Means(store, images, str(options.folder))
        ours, bare = Ours(settings, source, means), Bare(settings, policy, images)
        values = by_turns(
            options.rounds,
            ours=lambda turn: ours.tokens_per_s(rows_by_turn[turn]),
            bare=lambda turn: bare.tokens_per_s(rows_by_turn[turn]),
        )
        ours.group.close()
    return Result(
        name=options.row,
        what="response tokens trained on by second: the learner group, and a bare DeepSpeed loop",
        unit="tokens/s",
        values=values,
        compared=("ours", "bare"),
        bar=None if settings.deterministic else BAR,
        start_s={"ours": ours.start_s, "bare": bare.start_s},
        peak_mib=memory.total,
        notes={
            "rows": [len(rows) for rows in rows_by_turn[1:]],
            "tokens": [tokens_of(rows) for rows in rows_by_turn[1:]],
            "losses": {"ours": ours.losses, "bare": bare.losses},
            "memory": memory.by_title,
        },
    )


def make_rows(
    processor: Processor, images: Images, responses: int, queries: Sequence[Query]
) -> list[TrainRow]:
    """Rows of real questions with responses of drawn tokens: what they say costs nothing."""
    allowed = sorted(set(range(processor.vocabulary)) - set(processor.forbidden))
    rows = []
    for query in queries:
        drawn = random.Random(query.content_hash)
        prompt = processor.prompt(PromptTemplates().text(query), len(query.images))
        ids = processor.input_ids(prompt, query.images, lambda sha: decode(images(sha)))
        for _ in range(responses):
            sampled = drawn.choices(allowed, k=drawn.randint(*TOKENS))
            response = (*sampled, processor.end_ids[0])
            rows.append(TrainRow(prompt, query.images, len(ids), prompt_hash(ids), response))
    return rows


def tokens_of(rows: Sequence[TrainRow]) -> int:
    """Response tokens."""
    return sum(len(row.token_ids_T) for row in rows)


class Ours:
    """The learner group."""

    def __init__(self, settings: LearnSettings, source: Source, means: Means) -> None:
        begun = time.perf_counter()
        self.group = LearnerGroup.start(settings, source, means)
        self.start_s = time.perf_counter() - begun
        self.losses: list[float] = []

    def tokens_per_s(self, rows: list[TrainRow]) -> float:
        """One turn."""
        begun = time.perf_counter()
        found = self.group.train(rows, seed=0)
        seconds = time.perf_counter() - begun
        self.losses.append(found.loss)
        return found.tokens / seconds


class Bare:
    """The loop in an actor of its own."""

    def __init__(self, settings: LearnSettings, policy: Path, images: Images) -> None:
        import ray

        threads = {"OMP_NUM_THREADS": str(settings.threads)}
        options = {"num_cpus": 0, "runtime_env": {"env_vars": {**ENVIRONMENT, **threads}}}
        self._loop = ray.remote(BareLoop).options(**options).remote(settings, policy, images)
        self.start_s: float = ray.get(self._loop.start.remote())
        self.losses: list[float] = []

    def tokens_per_s(self, rows: list[TrainRow]) -> float:
        """One turn; collating is not part of it."""
        import ray

        ray.get(self._loop.prepare.remote(rows))
        seconds, loss = ray.get(self._loop.train.remote())
        self.losses.append(loss)
        return tokens_of(rows) / seconds


class BareLoop:
    """DeepSpeed as its tutorial shows it, on batches that lie in memory."""

    def __init__(self, settings: LearnSettings, policy: Path, images: Images) -> None:
        self._settings = settings
        self._policy = policy
        self._images = images
        self._trainer: Any = None
        self._passes: list[tuple[Any, Any]] = []

    def start(self) -> float:
        """Seconds until it can train."""
        import tempfile

        begun = time.perf_counter()
        from actors.training.trainer import Trainer, join_group

        join_group(0, 1, f"file://{tempfile.mkdtemp(prefix='mstar-bench-')}/rendezvous")
        self._trainer = Trainer(self._settings, self._policy, self._images)
        self._trainer.engine.train()
        return time.perf_counter() - begun

    def prepare(self, rows: Sequence[TrainRow]) -> None:
        """Collate the batches that the learner will make of these rows."""
        from pipeline.training.batches import batches

        settings = self._settings
        plan_S = batches([row.length for row in rows], 0, settings.batch_size, settings.window)
        self._passes = [
            (item, self._trainer.collator.collate(item.rows, item.anchors))
            for batch in plan_S
            for item in self._trainer.passes([rows[index] for index in batch])
        ]

    def train(self) -> tuple[float, float]:
        """Seconds of one epoch, and its mean loss."""
        import torch

        engine, nll, tokens = self._trainer.engine, [], 0
        begun = time.perf_counter()
        for item, micro in self._passes:
            engine.set_gradient_accumulation_boundary(item.closes)
            made = engine(**micro.inputs, use_cache=False, logits_to_keep=micro.keep)
            loss = torch.nn.functional.cross_entropy(
                made.logits[:, -micro.keep :].float().flatten(0, 1),
                micro.targets_B_G.flatten(),
                reduction="sum",
            )
            engine.backward(loss / item.tokens, scale_wrt_gas=False)
            nll.append(loss.detach())
            if item.closes:
                engine.step()
                tokens += item.tokens
        total = float(torch.stack(nll).sum())
        return time.perf_counter() - begun, total / tokens
