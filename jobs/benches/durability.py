"""What durability costs: shards and ledger entries written, a ledger replayed, a driver kept alive.

Replay and the long run are measured in processes of their own, so that what they need to be built
does not count.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.s3 import LocalS3
from cluster.s3_proxy import S3Proxy
from jobs.benches.record import Options, Result, by_turns
from pipeline.records import Rollout
from pipeline.run.events.lifecycle import RunCreated
from pipeline.run.ledger import Ledger
from pipeline.storage.artifacts import put_content
from pipeline.storage.parquet import COMPRESSION_LEVEL, table_bytes, to_table
from pipeline.storage.store import Store, open_store

ROOT = Path(__file__).resolve().parents[2]

ROWS, TOKENS, SHARDS = 2048, 300, 8

GROUP, ENTRIES = 16, 60

LATENCY_S = 0.03

REPLAYED, REPLAY_S, REPLAY_MB = 100_000, 10.0, 500.0

ITERATIONS, FLAT = 300, 1.2


# --- writing --------------------------------------------------------------------------------------


def shards(options: Options) -> Result:
    """A shard written and committed, durably, against raw pyarrow with zstd on the same table."""
    rows = 64 if options.small else ROWS
    tables = [rollouts(rows, seed) for seed in range(2 if options.small else SHARDS)]
    return Result(
        name="shards",
        what="rows of rollouts written: hashed, fsynced and in the ledger, against pyarrow alone",
        unit="rows/s",
        values=by_turns(
            options.rounds,
            ours=lambda turn: _ours(tables, options.folder / f"store-{turn}"),
            pyarrow=lambda turn: _raw(tables, options.folder / f"raw-{turn}"),
        ),
        compared=("ours", "pyarrow"),
        bar=0.8,
        notes={"rows": rows, "tokens": TOKENS, "shards": len(tables)},
    )


def rollouts(rows: int, seed: int) -> pa.Table:
    """Rollouts as a run has them: 16 samples of each query, responses of differing length."""
    draw = random.Random(seed)
    made = []
    for index in range(rows):
        length = draw.randint(TOKENS // 2, 3 * TOKENS // 2)
        query = f"{seed}-{index // 16}"
        made.append(
            Rollout(
                query=query.rjust(64, "0"),
                query_id=f"train-{query}",
                sample_index=index % 16,
                seed=draw.getrandbits(62),
                policy="policy-0123456789abcdef",
                temperature=1.0,
                top_p=1.0,
                prompt_sha256=query.rjust(64, "0"),
                prompt_tokens=200,
                token_ids=tuple(draw.choices(range(32_000), k=length)),
                logprobs=tuple(-draw.expovariate(2.0) for _ in range(length)),
                text=" ".join(draw.choices(("the", "cell", "is", "7", "so", "sum"), k=length)),
                finish="stop",
            )
        )
    return to_table(made, Rollout)


def _ours(tables: list[pa.Table], folder: Path) -> float:
    store = open_store(folder)
    ledger = Ledger(store, "bench")
    ledger.append([{"type": "run_created"}])
    begun = time.perf_counter()
    for number, table in enumerate(tables):
        path = put_content(store, "rollout", f"k-{number}", table_bytes(table), "parquet")
        ledger.append([{"type": "shard_accepted", "rollout": path}])
    return _per_second(tables, begun, folder)


def _raw(tables: list[pa.Table], folder: Path) -> float:
    folder.mkdir(parents=True)
    begun = time.perf_counter()
    for number, table in enumerate(tables):
        pq.write_table(
            table,
            folder / f"{number}.parquet",
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
        )
    return _per_second(tables, begun, folder)


def _per_second(tables: list[pa.Table], begun: float, folder: Path) -> float:
    took = time.perf_counter() - begun
    shutil.rmtree(folder)
    return sum(table.num_rows for table in tables) / took


def ledger_cost(options: Options) -> Result:
    """Milliseconds of one event, committed in groups of 16, on disk and on S3 30 ms away."""
    entries = 4 if options.small else ENTRIES
    with _distant_s3(options.folder) as bucket:
        values = by_turns(
            options.rounds,
            local=lambda turn: _per_event(open_store(options.folder / f"l-{turn}"), entries),
            s3=lambda turn: _per_event(open_store(f"s3://{bucket}/l-{turn}"), entries),
        )
    return Result(
        name="ledger",
        what=f"one event in a ledger, committed {GROUP} at a time",
        unit="ms/event",
        values=values,
        notes={"entries": entries, "s3_latency_ms": 1000 * LATENCY_S, "s3": "rclone serve s3"},
    )


@contextmanager
def _distant_s3(folder: Path) -> Iterator[str]:
    before = dict(os.environ)
    with LocalS3(folder / "s3") as server, S3Proxy(server.endpoint, latency_s=LATENCY_S) as proxy:
        os.environ.update(server.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint})
        try:
            yield server.bucket
        finally:
            os.environ.clear()
            os.environ.update(before)


def _per_event(store: Store, entries: int) -> float:
    ledger = Ledger(store, "bench")
    ledger.append([_accepted(0, 0)])
    begun = time.perf_counter()
    for number in range(entries):
        ledger.append([_accepted(number, index) for index in range(GROUP)])
    return 1000.0 * (time.perf_counter() - begun) / (entries * GROUP)


def _accepted(purpose: int, index: int) -> dict[str, Any]:
    """As large as a real one."""
    key = f"question-{index:016x}"
    return {
        "type": "shard_accepted",
        "stage": f"evolve/{purpose}/generate",
        "at": 123.456,
        "purpose": f"evolve/{purpose}",
        "index": index,
        "adopted": False,
        "key": key,
        "rollout": f"shards/rollout/{key}/{index:064x}.parquet",
        "rows": 512,
        "tokens": 150_000,
        "seconds": 12.5,
        "engine": "engine-3",
        "bad": [],
    }


def _graded(purpose: int, index: int) -> dict[str, Any]:
    counts = {"queries": 32, "samples": 512, "correct": 200, "kept": 64}
    return {
        "type": "shard_graded",
        "stage": f"evolve/{purpose}/generate",
        "at": 124.456,
        "purpose": f"evolve/{purpose}",
        "index": index,
        "key": f"question-{index:016x}",
        "rollout": f"shards/rollout/question-{index:016x}/{index:064x}.parquet",
        "grades": f"shards/grade/grade-{index:016x}/{index:064x}.parquet",
        "selected": f"shards/select/select-{index:016x}/{index:064x}.parquet",
        "coverage": counts,
        "seconds": 0.5,
        "bad": [],
    }


# --- reading, and living long ---------------------------------------------------------------------


def replay(options: Options) -> Result:
    """A driver's state from the ledger of 100,000 shards without a snapshot: how long it takes or,
    by the row `replay-memory`, the most memory, everything imported included."""
    unit, allowed = ("MB", REPLAY_MB) if options.row == "replay-memory" else ("seconds", REPLAY_S)
    shards_there = 2_000 if options.small else REPLAYED
    entries = long_ledger(options.folder / "store", shards_there)
    found = [_apart("replay", options.folder / "store")[unit] for _ in range(options.rounds)]
    return Result(
        name=options.row,
        what=f"replaying {shards_there} shards, no snapshot, in a fresh process",
        unit=unit,
        values={"replay": found, "allowed": [allowed] * options.rounds},
        compared=("replay", "allowed"),
        bar=1.0,
        better="lower",
        notes={"entries": entries, "group": GROUP},
    )


def long_ledger(folder: Path, shards_there: int, per_iteration: int = 500) -> int:
    """The ledger of a long run; how many entries it has. Not durable: nothing here is."""
    memory = open_store("memory://")
    ledger = Ledger(memory, "bench")
    created = RunCreated(config={}, config_hash="", data={}, queries="", versions={})
    ledger.append([created.to_wire()])
    for first in range(0, shards_there, per_iteration):
        t = first // per_iteration
        for start in range(0, per_iteration, GROUP // 2):
            group = range(start, min(start + GROUP // 2, per_iteration))
            ledger.append([_accepted(t, i) for i in group] + [_graded(t, i) for i in group])
        ledger.append([{"type": "iteration_closed", "iteration": t, "row": {"iteration": t}}])
    paths = memory.list()
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(memory.get(path))
    return len(paths)


def driver_memory(options: Options) -> Result:
    """A driver's memory at the end of a long run, against that after its first tenth."""
    iterations = 30 if options.small else ITERATIONS
    found = [_apart("live", options.folder / f"run-{turn}", iterations)
             for turn in range(1 if options.small else 2)]  # fmt: skip
    return Result(
        name="driver-memory",
        what=f"the driver's resident memory over {iterations} simulated iterations",
        unit="MB",
        values={
            "end": [one["end"] for one in found],
            "first_tenth": [one["first_tenth"] for one in found],
        },
        compared=("end", "first_tenth"),
        bar=FLAT,
        better="lower",
        notes={"shards": found[0]["shards"], "entries": found[0]["entries"]},
    )


def _apart(task: str, folder: Path, *args: object) -> dict[str, float]:
    command = [sys.executable, "-m", "jobs.benches.simulated", task, str(folder), *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result
