"""What a generator does with a shard: a real processor, images and store, and a scripted engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.generation.generator import GenerateSpec, Generator, Group
from actors.model.images import ImageCache, StoreImages, image_path
from actors.model.processor import Processor, load_processor
from actors.supervision.outcomes import ObjectLost, outcome_of
from pipeline.errors import BadModel, StoreMissing, StoreRefused, StoreUnavailable
from pipeline.generation.engine import Sample, SampleRequest
from pipeline.hashing import sha256_hex
from pipeline.prompts import prompt_hash
from pipeline.records import Rollout
from pipeline.refs import PolicyRef
from pipeline.storage.artifacts import get_verified
from pipeline.storage.models import publish_folder
from pipeline.storage.parquet import from_parquet
from pipeline.storage.store import Store, open_store
from tests.support.fakes import ScriptedEngine
from tests.support.models import make_images, make_policy

FILES = make_images(3)

IMAGES = list(FILES)

NO_IMAGE = b"this is no image"


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
            cache,
            max_model_len=128,
            processors=lambda _: processor,
        )

    def spec(self, *groups: Group, **changes: Any) -> GenerateSpec:
        spec: GenerateSpec = {
            "id": "shard",
            "key": "question-0123456789abcdef",
            "policy": self.policy.version,
            "policy_path": self.policy.path,
            "temperature": 1.0,
            "top_p": 1.0,
            "max_new_tokens": 16,
            "groups": list(groups),
        }
        spec.update(changes)  # type: ignore[typeddict-item]
        return spec

    def rows(self, value: dict[str, Any]) -> list[Rollout]:
        return from_parquet(get_verified(self.store, value["rollout"]), Rollout)


@pytest.fixture
def world(folder: Path, processor: Processor, tmp_path: Path) -> World:
    return World(folder, processor, tmp_path / "cache")


def group(number: int, images: Sequence[str] = (), **changes: Any) -> Group:
    made: Group = {
        "query": sha256_hex(str(number).encode()),
        "query_id": f"q{number}",
        "text": f"What is {number}?",
        "images": list(images),
        "seeds": [10 * number + k for k in range(3)],
        "first_index": 0,
        "prefix_token_ids": [],
    }
    made.update(changes)  # type: ignore[typeddict-item]
    return made


def test_a_shard_holds_every_sample_of_every_query_in_order(
    world: World, processor: Processor
) -> None:
    groups = [group(1, IMAGES[:1]), group(2, IMAGES[:2]), group(3)]
    value = world.generator.run(world.spec(*groups))
    rows = world.rows(value)
    assert [(row.query_id, row.sample_index, row.seed) for row in rows] == [
        (f"q{number}", k, 10 * number + k) for number in (1, 2, 3) for k in range(3)
    ]
    assert value["rows"] == 9
    assert value["tokens"] == sum(len(row.token_ids) for row in rows)
    assert value["bad"] == []
    for row, made in zip(rows[::3], groups, strict=True):
        prompt = processor.prompt(made["text"], len(made["images"]))
        ids = processor.input_ids(prompt, tuple(made["images"]), world.images.get)
        assert row.prompt_tokens == len(ids)
        assert row.prompt_sha256 == prompt_hash(ids)
    assert world.images.fetched == 2


def test_the_object_is_a_function_of_the_spec(
    world: World, folder: Path, processor: Processor, tmp_path: Path
) -> None:
    spec = world.spec(group(1, IMAGES[:1]), group(2))
    other = World(folder, processor, tmp_path / "other")
    assert world.generator.run(spec)["rollout"] == other.generator.run(spec)["rollout"]
    changed = world.spec(group(1, IMAGES[:1]), group(2, seeds=[20, 21, 99]))
    assert world.generator.run(changed)["rollout"] != other.generator.run(spec)["rollout"]


def test_a_query_that_cannot_be_asked_is_named_and_has_no_rows(world: World) -> None:
    broken, long = sha256_hex(NO_IMAGE), "very " * 200
    value = world.generator.run(
        world.spec(
            group(1, [broken]),
            group(2),
            group(3, text=long),
            group(4, text="What is an <image>?"),
            group(5, prefix_token_ids=[40] * 128),
        )
    )
    reasons = {item["query"]: item["reason"] for item in value["bad"]}
    assert {row.query_id for row in world.rows(value)} == {"q2"}
    assert [item["query"] for item in value["bad"]] == [
        group(number)["query"] for number in (1, 3, 4, 5)
    ]
    assert broken in reasons[group(1)["query"]]
    assert "generate.max_model_len" in reasons[group(3)["query"]]
    assert "<image>" in reasons[group(4)["query"]]
    assert "128" in reasons[group(5)["query"]]


def test_a_query_that_is_known_to_be_bad_is_not_asked_and_changes_nothing_else(
    world: World, folder: Path, processor: Processor, tmp_path: Path
) -> None:
    groups = [group(1, IMAGES[:1]), group(2), group(2, first_index=3, seeds=[99]), group(3)]
    known = {group(2)["query"]: "it killed 5 engines"}
    value = world.generator.run(world.spec(*groups, known_bad=known))
    assert value["bad"] == [{"query": group(2)["query"], "reason": "it killed 5 engines"}]
    assert {request.seed for request in world.engine.calls[0]} == {10, 11, 12, 30, 31, 32}
    without = World(folder, processor, tmp_path / "other")
    assert value["rollout"] == without.generator.run(world.spec(groups[0], groups[3]))["rollout"]


def test_a_shard_of_bad_queries_only_is_an_empty_object(world: World) -> None:
    value = world.generator.run(world.spec(group(1, [sha256_hex(NO_IMAGE)])))
    assert world.rows(value) == []
    assert len(value["bad"]) == 1


def test_a_prefix_is_not_part_of_the_row_but_of_its_text(world: World) -> None:
    value = world.generator.run(
        world.spec(group(1, prefix_token_ids=[72, 105], first_index=4, seeds=[7]))
    )
    (row,) = world.rows(value)
    assert row.sample_index == 4
    assert row.text.startswith("Hi")
    assert len(row.text) == 2 + len(row.token_ids) - 1


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
        world.generator.run(world.spec(group(1, IMAGES[:1])))
    assert world.store.list("shards") == []


def test_a_policy_is_fetched_and_loaded_once_for_many_shards(world: World, folder: Path) -> None:
    for number in range(3):
        world.generator.run(world.spec(group(number), key=f"question-{number:016x}"))
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
    world.generator.run(world.spec(group(1)))
    folder = make_policy(tmp_path / "next", 1)
    for count in (1, 2):
        policy = publish_folder(world.store, folder)
        spec = world.spec(group(count), policy=policy.version, policy_path=policy.path)
        world.generator.run(spec)
        assert len(loaded) == count
        template = folder / "chat_template.jinja"
        template.write_text(template.read_text() + "{# another #}")


def test_a_policy_that_is_gone_or_corrupt_is_named(world: World) -> None:
    weights = f"{world.policy.path}/model.safetensors"
    world.store.replace(weights, b"other")
    outcome = outcome_of(world.generator.run, world.spec(group(1)))
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.failure.path) == ("lost", world.policy.path)
    assert "model.safetensors" in outcome.failure.reason


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "remove"])
def test_an_image_that_is_damaged_is_named_and_once_put_back_gives_the_same(
    world: World, folder: Path, tmp_path: Path, how: str
) -> None:
    whole = world.generator.run(world.spec(group(1, IMAGES[:2]), group(2)))
    # Its own processor: one remembers the prompts that it has made.
    other = World(folder, load_processor(folder), tmp_path / "other", str(tmp_path / "store"))
    other.images._fetch = StoreImages(other.store.url)
    for sha in IMAGES:
        other.store.put(image_path(sha), FILES[sha])
    path, data = image_path(IMAGES[1]), FILES[IMAGES[1]]
    left = {"flip": data[:40] + bytes([data[40] ^ 1]) + data[41:], "cut": data[:-9], "empty": b""}
    other.store.delete(path) if how == "remove" else other.store.replace(path, left[how])
    spec = other.spec(group(1, IMAGES[:2]), group(2))
    for _ in range(2):
        failure = outcome_of(other.generator.run, spec).failure
        assert failure is not None
        assert (failure.kind, failure.path) == ("lost", path)
    assert other.store.list("shards") == []
    assert bool(other.store.list(f"quarantine/{path}")) is (how != "remove")
    other.store.put(path, data)  # as the driver does, from the data set
    assert other.generator.run(spec)["rollout"] == whole["rollout"]


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
            if requests[0].seed == 10:
                running.set()
                assert go.wait(60)
            order.append(f"generated {requests[0].seed}")
            return super().generate(requests)

    world.generator.engine = Slow(engine.prompted)
    first = world.spec(group(1))
    second = world.spec(group(2), policy=other.version, policy_path=other.path)
    third = world.spec(group(3))
    threads = [threading.Thread(target=world.generator.run, args=[one]) for one in (first, second)]
    threads[0].start()
    assert running.wait(60)
    threads[1].start()
    world.generator.run(third)  # of the first policy: it joins
    go.set()
    for thread in threads:
        thread.join(60)
    assert order == ["load", "generated 30", "generated 10", "load", "generated 20"]


FAILURES: list[tuple[Exception, str]] = [
    (BadModel("mend"), "user"),
    (StoreUnavailable("wait"), "infrastructure"),
    (StoreRefused("no"), "refused"),
    (StoreMissing("gone"), "lost"),
    (ObjectLost("images/1", "gone"), "lost"),
]


def test_failures_are_told_apart_and_the_rest_is_raised() -> None:
    def fail(error: Exception) -> None:
        raise error

    for error, kind in FAILURES:
        failure = outcome_of(fail, error).failure
        assert failure is not None
        assert failure.kind == kind
    with pytest.raises(ZeroDivisionError):
        outcome_of(fail, ZeroDivisionError())
