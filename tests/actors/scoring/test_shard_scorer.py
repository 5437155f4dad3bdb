"""Shards scored and selected from, by a real PRM and by scripted ones, and the actor around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.generation.engine_settings import engine_settings
from actors.model.images import ImageCache, image_path
from actors.model.processor import Processor, load_processor
from actors.model.value_head import HEAD, write_headed
from actors.scoring.scorer import MakeScorer, ScorerActor, ShardScorer
from actors.scoring.transformers_scorer import TransformersScorer
from actors.supervision.failures import CallResult
from pipeline.config.schema import Config
from pipeline.errors import ArtifactLost, BadModel
from pipeline.prm.step_scores import ScoreRequest
from pipeline.prompts import prompt_hash
from pipeline.query import Query
from pipeline.records import Grade, Rollout, Score, Selected
from pipeline.responses import merged, step_ends
from pipeline.selection.rules import Rule
from pipeline.simulation.fleet import ENGINE
from pipeline.stages.score import ScoreTask, Scoring, score_key, scored_how
from pipeline.storage.artifacts import put_content, read_rows
from pipeline.storage.models import publish_folder
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store, open_store
from pipeline.storage.tree_cache import TreeCache
from tests.support.models import make_images, make_policy
from tests.support.scripted import make_config

FILES = make_images(3)

QUERY, OTHER = (
    Query(f"q{i}", (sha,), "What is the sum of row 3?", None, "7", "number")
    for i, sha in enumerate(list(FILES)[:2])
)

CONFIG: Config = make_config(
    generate={"precision": "float32", "max_model_len": 256}, prm={"engine": "transformers"}
)

TEXTS = ["a is 3\n\nb is 4\n\n# Answer\n\n7", "a is 3\n\n# Answer\n\n5", "# Answer\n\n7", "a\n\nb"]
LONG = "\n\n".join([*(f"row {number}" for number in range(20)), "# Answer", "7"])


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy") / "policy", 0)


@pytest.fixture(scope="module")
def processor(policy: Path) -> Processor:
    return load_processor(policy)


@pytest.fixture
def prm(policy: Path, tmp_path: Path) -> Path:
    return with_head(write_headed(policy, tmp_path / "prm"), 3)


def with_head(prm: Path, seed: int) -> Path:
    """The PRM with a head of random numbers."""
    tensors = load_file(prm / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    tensors[HEAD] = torch.randn(1, 128, generator=generator) / 8
    save_file(tensors, prm / "model.safetensors", metadata={"format": "pt"})
    return prm


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = open_store(tmp_path / "store")
    for sha, data in FILES.items():
        made.put(image_path(sha), data)
    return made


def task_of(
    store: Store,
    prm: Path,
    processor: Processor,
    texts: Sequence[str] = TEXTS,
    *,
    query: Query = QUERY,
    **row: Any,
) -> ScoreTask:
    """All responses are correct, and all are to be scored. row: what rollouts say otherwise."""
    prompt = processor.prompt(query.question, 1)
    ids = processor.input_ids(prompt, query.images, ImageCache(FILES.__getitem__).get)
    rows = [
        replace(
            Rollout(
                query.content_hash, query.query_id, index, index, "policy-1", 1.0, 1.0,
                prompt_hash(ids), len(ids), tuple(tokens), (-0.5,) * len(tokens), text, "stop",
            ),
            **row,
        )
        for index, text in enumerate(texts)
        for tokens in [processor.tokenizer(text, add_special_tokens=False)["input_ids"]]
    ]  # fmt: skip
    grades = [Grade(query.content_hash, row.sample_index, "correct", "7") for row in rows]
    return ScoreTask(
        key=f"shard {query.query_id}",
        rollout=put_content(store, "rollout", "r", to_parquet(rows, Rollout), "parquet"),
        grades=put_content(store, "grade", "g", to_parquet(grades, Grade), "parquet"),
        queries_Q=(query,),
        prompt="question",
        scoring=Scoring(publish_folder(store, prm), "right", "min"),
        rule=Rule("top_k", 2),
        seed=0,
    )


def shard_scorer(store: Store, folder: Path, make: MakeScorer | None = None) -> ShardScorer:
    def fetch(sha: str) -> bytes:
        return store.get(image_path(sha))

    return ShardScorer(
        make or (lambda tag: TransformersScorer(fetch, max_model_len=256, tag_ids=tag)),
        store,
        ImageCache(fetch),
        TreeCache(folder / "cache"),
        config=CONFIG,
        engine=ENGINE,
    )


def test_a_shard_is_scored_and_selected_from_and_what_has_no_step_is_counted(
    store: Store, prm: Path, processor: Processor, tmp_path: Path
) -> None:
    task = task_of(store, prm, processor, [*TEXTS, LONG])
    done = shard_scorer(store, tmp_path).run(task)
    rows = read_rows(store, task.rollout, Rollout)
    places = [(row.query, row.sample_index) for row in rows]
    assert done.scores.split("/")[2] == score_key(task, places, ENGINE, scored_how(CONFIG))
    scores = read_rows(store, done.scores, Score)
    assert done.excluded == {"no_steps": 1}
    assert [score.sample_index for score in scores] == [0, 1, 3, 4]
    for score in scores:
        ends = step_ends(rows[score.sample_index].token_ids, processor.decode)
        assert score.step_ends == merged(ends, 16)
        assert score.reward_p == min(score.step_scores)
    assert [len(score.step_scores) for score in scores] == [2, 1, 1, 16]
    assert len(ends) == 20
    assert set(scores[-1].step_ends) < set(ends)
    assert scores[-1].step_ends[-1] == ends[-1]
    assert done.selected is not None
    best = sorted(scores, key=lambda score: -score.reward_p)[:2]
    kept = read_rows(store, done.selected, Selected)
    assert {row.sample_index: row.reward for row in kept} == {
        score.sample_index: score.reward_p for score in best
    }


def test_what_is_not_there_and_other_prompts_are_refused(
    store: Store, prm: Path, processor: Processor, tmp_path: Path
) -> None:
    scorer = shard_scorer(store, tmp_path)
    with pytest.raises(BadModel, match="other tokens of its prompt"):
        scorer.run(task_of(store, prm, processor, prompt_sha256="0" * 64))
    task = task_of(store, prm, processor)
    store.delete(image_path(QUERY.images[0]))
    with pytest.raises(Exception, match=QUERY.images[0][:16]):
        shard_scorer(store, tmp_path / "other").run(task)
    store.delete(task.grades)
    with pytest.raises(ArtifactLost) as lost:
        scorer.run(task)
    assert lost.value.path == task.grades


class Halves:
    """A scorer that gives every step 1/2; `meanwhile` happens inside its first call."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.meanwhile = meanwhile
        self.loaded = Path()
        self.scored: list[tuple[str, int]] = []

    def load_policy(self, folder: Path) -> None:
        self.loaded = folder

    def score(self, requests: Sequence[ScoreRequest]) -> list[Any]:
        self.scored.append((self.loaded.name, len(requests)))
        if len(self.scored) == 1:
            self.meanwhile()
        return [(0.5,) * len(request.ends_S) or "no_steps" for request in requests]

    def close(self) -> None: ...


class Pictures(ImageCache):
    """Calls `seen` with each picture that a shard's prompts show, when the shard is read."""

    def __init__(self, seen: Callable[[str], None]) -> None:
        super().__init__(FILES.__getitem__)
        self.seen = seen

    def get(self, sha: str) -> Any:
        self.seen(sha)
        return super().get(sha)


def with_engine(
    store: Store, folder: Path, engine: Halves, seen: Callable[[str], None]
) -> ShardScorer:
    return ShardScorer(
        lambda tag: engine,
        store,
        Pictures(seen),
        TreeCache(folder),
        config=CONFIG,
        engine=ENGINE,
    )


def test_a_shard_is_read_while_another_is_scored(
    store: Store, prm: Path, processor: Processor, tmp_path: Path
) -> None:
    first, second = (task_of(store, prm, processor, query=query) for query in (QUERY, OTHER))
    read = Event()
    with ThreadPoolExecutor(1) as pool:
        later: list[Any] = []

        def meanwhile() -> None:
            later.append(pool.submit(scorer.run, second))
            assert read.wait(120), "the second shard was not read"

        engine = Halves(meanwhile)
        seen = {OTHER.images[0]: read.set}
        scorer = with_engine(store, tmp_path, engine, lambda sha: seen.get(sha, lambda: None)())
        scorer.run(first)
        assert later[0].result().key == second.key
    assert [count for _, count in engine.scored] == [4, 4]


def test_a_shard_is_scored_by_its_own_prm_whatever_was_loaded_since_it_was_read(
    store: Store, prm: Path, processor: Processor, tmp_path: Path
) -> None:
    first = task_of(store, prm, processor)
    second = task_of(store, with_head(prm, 4), processor, query=OTHER)
    engine = Halves()

    def seen(sha: str) -> None:
        """The second shard is done, from beginning to end, while the first one is being read."""
        if sha == QUERY.images[0]:
            scorer.run(second)

    scorer: ShardScorer = with_engine(store, tmp_path, engine, seen)
    scorer.run(first)
    folders = [task.scoring.prm.path.rsplit("/", 1)[-1] for task in (second, first)]
    assert len(set(folders)) == 2
    assert [name for name, _ in engine.scored] == folders


def test_the_actor_classifies_its_failures(
    store: Store, prm: Path, policy: Path, processor: Processor, tmp_path: Path
) -> None:
    actor = ScorerActor(CONFIG, engine_settings(CONFIG), ENGINE, store, str(tmp_path / "cache"))
    task = task_of(store, prm, processor)
    assert actor.start(task) == CallResult()
    result = actor.run(task)
    assert result.failure is None
    assert store.exists(result.value.selected)
    assert actor.progress()[0] > 0
    headless = replace(task.scoring, prm=publish_folder(store, policy))
    failure = actor.run(replace(task, scoring=headless)).failure
    assert failure is not None
    assert failure.kind == "user"
    assert "score.weight" in failure.reason
    store.delete(task.rollout)
    failure = actor.run(task).failure
    assert failure is not None
    assert (failure.kind, failure.path) == ("lost", task.rollout)
