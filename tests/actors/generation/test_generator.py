"""What a generator does with a shard: a real processor, images and store, and a scripted engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from actors.generation.generator import Generator, ShardWork
from actors.model.images import ImageCache, StoreImages, image_path
from actors.model.processor import Processor, load_processor
from actors.supervision.failures import CallResult, Failure, WorkFailed, call, classify
from pipeline.errors import ArtifactLost, BadModel, StoreMissing, StoreRefused, StoreUnavailable
from pipeline.generation.engine import Sample, SampleRequest
from pipeline.generation.fleet import BadQuery, ShardDone
from pipeline.generation.shards import SamplingParams, shard_specs
from pipeline.hashing import sha256_hex
from pipeline.prm.completions import completion_specs
from pipeline.prm.labels import Prefix
from pipeline.prompts import PromptTemplates, prompt_hash, question_text
from pipeline.query import Query
from pipeline.records import Rollout
from pipeline.refs import PolicyRef
from pipeline.simulation.fleet import ENGINE
from pipeline.storage.artifacts import get_verified
from pipeline.storage.models import publish_folder
from pipeline.storage.parquet import from_parquet
from pipeline.storage.store import Store, open_store
from pipeline.storage.tree_cache import TreeCache
from tests.support.fakes import ScriptedEngine
from tests.support.models import make_images, make_policy

FILES = make_images(3)
IMAGES = list(FILES)
NO_IMAGE = b"this is no image"

SAMPLING = SamplingParams(3, 1.0, 1.0, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy") / "base", 0)


@pytest.fixture(scope="module")
def processor(folder: Path) -> Processor:
    return load_processor(folder)


class World:
    """A store with one policy in it, and a generator with a scripted engine over it."""

    def __init__(
        self, folder: Path, processor: Processor, cache: Path, store: str = "memory://"
    ) -> None:
        self.store: Store = open_store(store)
        self.policy: PolicyRef = publish_folder(self.store, folder)
        files = {**FILES, sha256_hex(NO_IMAGE): NO_IMAGE}
        self.images = ImageCache(files.__getitem__)

        def prompted(prompt: str, images: tuple[str, ...]) -> tuple[int, ...]:
            return processor.input_ids(prompt, images, self.images.get)

        self.engine = ScriptedEngine(prompted)
        self.generator = Generator(
            self.engine,
            self.store,
            self.images,
            TreeCache(cache),
            max_model_len=256,
            processors=lambda _: processor,
        )

    def work(self, *queries: Query, policy: PolicyRef | None = None, seed: int = 0) -> ShardWork:
        """A shard of these queries, three samples of each."""
        policy = policy or self.policy
        (spec,) = shard_specs(
            "test",
            queries,
            policy=policy.version,
            sampling=SAMPLING,
            engine=ENGINE,
            run_seed=seed,
            shard_queries=len(queries),
            templates=PromptTemplates(),
        )
        return ShardWork(spec, policy, queries)

    def completions(self, query: Query, *prefixes: tuple[int, ...]) -> ShardWork:
        """Completions of these prefixes, three of each."""
        (spec,) = completion_specs(
            "test",
            [Prefix(query.content_hash, prefix) for prefix in prefixes],
            {query.content_hash: query},
            policy=self.policy.version,
            sampling=SAMPLING,
            engine=ENGINE,
            run_seed=0,
            shard_queries=1,
            templates=PromptTemplates(),
        )
        return ShardWork(spec, self.policy, (query,))

    def rows(self, done: ShardDone) -> list[Rollout]:
        return from_parquet(get_verified(self.store, done.rollout), Rollout)


@pytest.fixture
def world(folder: Path, processor: Processor, tmp_path: Path) -> World:
    return World(folder, processor, tmp_path / "cache")


def ask(number: int, images: Sequence[str] = (), text: str = "") -> Query:
    return Query(f"q{number}", tuple(images), text or f"What is {number}?", None, "7", "number")


def test_a_shard_holds_every_sample_of_every_query_in_order(
    world: World, processor: Processor
) -> None:
    queries = [ask(1, IMAGES[:1]), ask(2, IMAGES[:2]), ask(3)]
    work = world.work(*queries)
    done = world.generator.run(work)
    rows = world.rows(done)
    assert [(row.query_id, row.sample_index, row.seed) for row in rows] == [
        (query.query_id, k, work.spec.seed(query.content_hash, k))
        for query in queries
        for k in range(3)
    ]
    assert (done.key, done.rows, done.bad) == (work.spec.key, 9, ())
    assert done.tokens == sum(len(row.token_ids) for row in rows)
    for row, query in zip(rows[::3], queries, strict=True):
        prompt = processor.prompt(question_text(query), len(query.images))
        ids = processor.input_ids(prompt, query.images, world.images.get)
        assert row.prompt_tokens == len(ids)
        assert row.prompt_sha256 == prompt_hash(ids)
    assert world.images.fetched == 2


def test_the_object_is_a_function_of_the_work(
    world: World, folder: Path, processor: Processor, tmp_path: Path
) -> None:
    queries = ask(1, IMAGES[:1]), ask(2)
    other = World(folder, processor, tmp_path / "other")
    made = world.generator.run(world.work(*queries)).rollout
    assert other.generator.run(other.work(*queries)).rollout == made
    assert world.generator.run(world.work(*queries, seed=1)).rollout != made


def test_a_query_that_cannot_be_asked_is_named_and_has_no_rows(world: World) -> None:
    broken = sha256_hex(NO_IMAGE)
    queries = [
        ask(1, [broken]),
        ask(2),
        ask(3, text="very " * 300),
        ask(4, text="What is an <image>?"),
    ]
    done = world.generator.run(world.work(*queries))
    reasons = [each.reason for each in done.bad]
    assert {row.query_id for row in world.rows(done)} == {"q2"}
    assert [each.query for each in done.bad] == [queries[i].content_hash for i in (0, 2, 3)]
    assert broken in reasons[0]
    assert "generate.max_model_len" in reasons[1]
    assert "<image>" in reasons[2]


def test_a_query_with_a_prefix_that_leaves_no_room_has_no_rows_at_all(world: World) -> None:
    done = world.generator.run(world.completions(ask(1), (72, 105), (40,) * 256))
    assert world.rows(done) == []
    (bad,) = done.bad
    assert "its prefix 256" in bad.reason


def test_a_query_that_is_known_to_be_bad_is_not_asked_and_changes_nothing_else(
    world: World, folder: Path, processor: Processor, tmp_path: Path
) -> None:
    queries = ask(1, IMAGES[:1]), ask(2), ask(3)
    bad = BadQuery(queries[1].content_hash, "it killed 5 engines")
    work = replace(world.work(*queries), known_bad=(bad,))
    done = world.generator.run(work)
    assert done.bad == (bad,)
    asked = {request.prompt for request in world.engine.calls[0]}
    assert not any("What is 2?" in prompt for prompt in asked)
    without = World(folder, processor, tmp_path / "other")
    others = replace(work, queries_Q=(queries[0], queries[2]), known_bad=())
    assert done.rollout == without.generator.run(others).rollout


def test_a_query_that_is_tried_alone_is_stored_under_a_key_of_its_own(world: World) -> None:
    queries = ask(1), ask(2)
    whole = world.work(*queries)
    done = world.generator.run(replace(whole, queries_Q=queries[1:], alone=True))
    assert done.rollout.split("/")[2] == f"{whole.spec.key}-alone"
    assert {row.query_id for row in world.rows(done)} == {"q2"}


def test_a_shard_of_bad_queries_only_is_an_empty_object(world: World) -> None:
    done = world.generator.run(world.work(ask(1, [sha256_hex(NO_IMAGE)])))
    assert world.rows(done) == []
    assert len(done.bad) == 1


def test_a_prefix_is_not_part_of_the_row_but_of_its_text(world: World) -> None:
    rows = world.rows(world.generator.run(world.completions(ask(1), (72, 105), (65,))))
    assert [row.sample_index for row in rows] == list(range(6))
    for row, prefix in zip(rows, ["Hi"] * 3 + ["A"] * 3, strict=True):
        assert row.text.startswith(prefix)
        assert len(row.text) == len(prefix) + len(row.token_ids) - 1


class Lying(ScriptedEngine):
    """An engine whose samples go through `lie` on their way out."""

    lie: Callable[[Sample], Sample]

    def _sample(self, request: SampleRequest) -> Sample:
        return self.lie(super()._sample(request))


@pytest.mark.parametrize(
    ("lie", "word"),
    [
        (lambda s: replace(s, prompt_token_ids_P=s.prompt_token_ids_P[:-1]), "processor makes"),
        (lambda s: replace(s, prompt_token_ids_P=(*s.prompt_token_ids_P[:-1], 9)), "q1"),
        (lambda s: replace(s, token_ids_T=(4, *s.token_ids_T[1:])), "forbidden"),
    ],
)
def test_tokens_that_are_not_the_processors_are_refused(
    world: World, lie: Callable[[Sample], Sample], word: str
) -> None:
    engine = Lying(world.engine.prompted)
    engine.lie = lie
    world.generator.engine = engine
    with pytest.raises(BadModel, match=word):
        world.generator.run(world.work(ask(1, IMAGES[:1])))
    assert world.store.list("shards") == []


def test_a_policy_is_fetched_and_loaded_once_for_many_shards(world: World, folder: Path) -> None:
    for number in range(3):
        world.generator.run(world.work(ask(number)))
    (loaded,) = world.engine.loaded
    names = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert names <= {file.name for file in loaded.iterdir()}
    assert (loaded / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()


def test_a_processor_is_kept_while_its_files_are_equal(
    world: World, processor: Processor, tmp_path: Path
) -> None:
    loaded: list[Path] = []

    def load(folder: Path) -> Processor:
        loaded.append(folder)
        return processor

    world.generator._load_processor = load
    world.generator.run(world.work(ask(1)))
    folder = make_policy(tmp_path / "next", 1)
    for count in (1, 2):
        policy = publish_folder(world.store, folder)
        world.generator.run(world.work(ask(count), policy=policy))
        assert len(loaded) == count
        template = folder / "chat_template.jinja"
        template.write_text(template.read_text() + "{# another #}")


def test_a_policy_that_is_gone_or_corrupt_is_named(world: World) -> None:
    weights = f"{world.policy.path}/model.safetensors"
    world.store.replace(weights, b"other")
    failure = call(world.generator.run, world.work(ask(1))).failure
    assert failure is not None
    assert (failure.kind, failure.path) == ("lost", world.policy.path)
    assert "model.safetensors" in failure.reason


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "remove"])
def test_an_image_that_is_damaged_is_named_and_once_put_back_gives_the_same(
    world: World, folder: Path, tmp_path: Path, how: str
) -> None:
    queries = ask(1, IMAGES[:2]), ask(2)
    whole = world.generator.run(world.work(*queries))
    # Its own processor: one remembers the prompts that it has made.
    other = World(folder, load_processor(folder), tmp_path / "other", str(tmp_path / "store"))
    other.images._fetch = StoreImages(other.store)
    for sha in IMAGES:
        other.store.put(image_path(sha), FILES[sha])
    path, data = image_path(IMAGES[1]), FILES[IMAGES[1]]
    left = {"flip": data[:40] + bytes([data[40] ^ 1]) + data[41:], "cut": data[:-9], "empty": b""}
    other.store.delete(path) if how == "remove" else other.store.replace(path, left[how])
    work = other.work(*queries)
    for _ in range(2):
        failure = call(other.generator.run, work).failure
        assert failure is not None
        assert (failure.kind, failure.path) == ("lost", path)
    assert other.store.list("shards") == []
    assert bool(other.store.list(f"quarantine/{path}")) is (how != "remove")
    other.store.put(path, data)  # as the driver does, from the data set
    assert other.generator.run(work).rollout == whole.rollout


def test_no_policy_is_loaded_while_a_shard_of_another_is_running(
    world: World, folder: Path, processor: Processor, tmp_path: Path
) -> None:
    other = publish_folder(world.store, make_policy(tmp_path / "next", 1))
    order: list[str] = []
    running, go = threading.Event(), threading.Event()
    engine = world.engine

    class Slow(ScriptedEngine):
        def load_policy(self, folder: Path) -> None:
            order.append("load")
            super().load_policy(folder)

        def generate(self, requests: Sequence[SampleRequest]) -> list[Sample]:
            (number,) = {request.prompt.partition("?")[0][-1] for request in requests}
            if number == "1":
                running.set()
                assert go.wait(60)
            order.append(f"generated {number}")
            return super().generate(requests)

    world.generator.engine = Slow(engine.prompted)
    first, third = world.work(ask(1)), world.work(ask(3))
    second = world.work(ask(2), policy=other)
    threads = [threading.Thread(target=world.generator.run, args=[one]) for one in (first, second)]
    threads[0].start()
    assert running.wait(60)
    threads[1].start()
    world.generator.run(third)  # of the first policy: it joins
    go.set()
    for thread in threads:
        thread.join(60)
    assert order == ["load", "generated 3", "generated 1", "load", "generated 2"]


FAILURES: list[tuple[Exception, Failure]] = [
    (BadModel("mend"), Failure("user", "mend")),
    (StoreUnavailable("wait"), Failure("infrastructure", "wait")),
    (StoreRefused("no"), Failure("refused", "no")),
    (StoreMissing("gone"), Failure("lost", "gone")),
    (ArtifactLost("images/1", "gone"), Failure("lost", "gone", "images/1")),
    (WorkFailed(Failure("lost", "rank 1: gone", "x")), Failure("lost", "rank 1: gone", "x")),
]


def test_failures_are_classified_and_any_other_error_is_raised() -> None:
    def fail(error: Exception) -> None:
        raise error

    for error, failure in FAILURES:
        assert call(fail, error) == CallResult(failure=failure)
    with pytest.raises(ZeroDivisionError):
        call(fail, ZeroDivisionError())
    assert classify(ZeroDivisionError()) is None
