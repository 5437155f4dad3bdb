"""What `jobs.benches.durability` measures in a process of its own; each prints one line of JSON.

    python -m jobs.benches.simulated replay STORE
    python -m jobs.benches.simulated live STORE ITERATIONS

`live` is the real driver over a world that does nothing: shards are accepted that nobody sampled,
jobs are done that trained nothing. Only the grades of evaluations, which the driver reads, exist.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from functools import partial
from pathlib import Path

import psutil

from pipeline.config.load import config_from_dict
from pipeline.datasets.dataset import Dataset
from pipeline.driver.context import RunContext
from pipeline.driver.driver import drive
from pipeline.generation.fleet import ShardDone
from pipeline.generation.shards import EngineIdentity, ShardSpec
from pipeline.hashing import sha256_hex
from pipeline.query import Query
from pipeline.records import Grade
from pipeline.refs import CheckpointRef, PolicyRef
from pipeline.run.events import wire
from pipeline.run.events.event import Event
from pipeline.run.events.lifecycle import IterationClosed
from pipeline.run.events.sampling import ShardAccepted
from pipeline.run.ledger import Ledger
from pipeline.run.shard_answers import GradeDone
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.selection.coverage import Coverage
from pipeline.simulation.workers import AtOnce, in_process
from pipeline.stages.grade import GradeTask
from pipeline.stages.tasks import TaskContext
from pipeline.stages.workers import Watch, Workers
from pipeline.storage.artifacts import put_content
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store, open_store
from pipeline.training.job import LearnDone, LearnJob

RUN = "bench"


def replay(store: Store) -> dict[str, float]:
    """Seconds, and the most memory that this process ever had."""
    begun = time.perf_counter()
    snapshot, events = Ledger(store, RUN).resume()
    wire.replay(events, State() if snapshot is None else State.from_dict(snapshot))
    took = time.perf_counter() - begun
    return {"seconds": took, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000.0}


def sampled(spec: ShardSpec, policy: PolicyRef) -> ShardDone:
    """A shard that nobody has sampled."""
    path = f"shards/rollout/{spec.key}/{sha256_hex(spec.key.encode())}.parquet"
    return ShardDone(spec.key, path, spec.rows, 100 * spec.rows, 0.1)


def graded(store: Store, task: GradeTask) -> GradeDone:
    """Every response is correct; only grades of evaluations, which have no rule, are stored."""
    counts = [
        task.samples if isinstance(task.samples, int) else task.samples[query.content_hash]
        for query in task.queries_Q
    ]
    grades = f"shards/grade/{task.key}/{'0' * 64}.parquet"
    if task.rule is None:
        rows = [
            Grade(query.content_hash, index, "correct", query.answer)
            for query, count in zip(task.queries_Q, counts, strict=True)
            for index in range(count)
        ]
        grades = put_content(store, "grade", task.key, to_parquet(rows, Grade), "parquet")
    total = sum(counts)
    kept = total if task.rule is not None else 0
    coverage = Coverage(queries=len(task.queries_Q), samples=total, correct=total, kept=kept)
    selected = f"shards/select/{task.key}/{'1' * 64}.parquet" if kept else None
    return GradeDone(task.key, task.rollout, grades, selected, coverage, 0.1)


def learned(job: LearnJob, resume: CheckpointRef | None) -> LearnDone:
    """A job that was done in one step."""
    sha = sha256_hex(job.name.encode())
    step = 1 + (job.start.step if job.start else 0)
    checkpoint = CheckpointRef(f"checkpoints/{RUN}/{sha}", sha, job.name, 1, step)
    policy = PolicyRef(f"policy-{sha[:16]}", f"policies/model/{sha}")
    return LearnDone(job.name, checkpoint, policy, 1, 8, 800, 0.5, 0.1)


class Memory(Watch):
    """Looks at the process's memory whenever an iteration is closed, and counts shards."""

    def __init__(self) -> None:
        self.mb: list[float] = []
        self.shards = 0

    def event(self, event: Event, state: State) -> None:
        self.shards += isinstance(event, ShardAccepted)
        if isinstance(event, IterationClosed):
            self.mb.append(psutil.Process().memory_info().rss / 1e6)


def live(store: Store, iterations: int) -> dict[str, float]:
    """MB after the first tenth of a run's iterations, and after the last."""
    base = Path(store.url) / "base"
    base.mkdir(parents=True, exist_ok=True)
    (base / "model.json").write_text("{}")
    config = config_from_dict(
        {
            "run": {"name": RUN},
            "policy": {"path": str(base)},
            "data": {"test": ["test"]},
            "warmup": {"queries": 4},
            "generate": {"samples": 2, "shard_queries": 1, "lookahead": 16, "max_new_tokens": 8},
            "learn": {"batch_size": 8},
            "evolve": {"iterations": iterations, "interval": 0.25, "control": False},
            "evaluate": {"samples": 0, "shard_queries": 8},
        }
    )
    queries = [
        Query(f"{split}-{i}", (), f"{split} {i}?", None, str(i), "number", split=split)
        for split, count in (("train", 64), ("validation", 8), ("test", 8))
        for i in range(count)
    ]
    engine = EngineIdentity("nobody", "1", "float32", 1, 512)
    program = RunSpec.of(config, Dataset(queries, {}), engine, "nobody-1")
    watch, ledger = Memory(), Ledger(store, RUN)
    world = Workers(
        AtOnce(sampled),
        AtOnce(partial(graded, store)),
        AtOnce(learned),
        in_process(TaskContext(store, program)),
    )
    drive(RunContext(program, store, ledger, world, watch, sleep=lambda seconds: None))
    return {
        "first_tenth": watch.mb[len(watch.mb) // 10],
        "end": watch.mb[-1],
        "shards": float(watch.shards),
        "entries": float(ledger.position + 1),
    }


if __name__ == "__main__":
    task, folder, *rest = sys.argv[1:]
    opened = open_store(folder)
    print(json.dumps(replay(opened) if task == "replay" else live(opened, int(rest[0]))))
