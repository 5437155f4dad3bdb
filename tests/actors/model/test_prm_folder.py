"""A PRM's fit to the policy, models that answer at a step tag, and shards scored in an actor."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.generation.engine_settings import EngineSettings
from actors.model.images import ImageCache, image_path
from actors.model.prm_folder import TagWords, check_prm, fit_prm
from actors.model.processor import load_processor
from actors.model.value_head import HEAD, read_head, write_headed
from actors.scoring.scorer import ScorerActor, ScorerSettings, ShardReader, ShardScorer
from actors.scoring.transformers_scorer import TransformersScorer
from actors.supervision.outcomes import ObjectLost
from pipeline.errors import BadModel
from pipeline.prm.step_scores import ScoreRequest
from pipeline.prompts import prompt_hash
from pipeline.records import Rollout, Score
from pipeline.responses import merged, step_ends
from pipeline.storage.artifacts import get_verified, put_content
from pipeline.storage.models import publish_folder
from pipeline.storage.parquet import from_parquet, to_parquet
from pipeline.storage.store import Store, open_store
from tests.support.models import make_images, make_policy

FILES = make_images(3)

IMAGES = tuple(FILES)

QUESTION = "What is the sum of row 3?"

WORDS = TagWords(tag="#", good="7", bad="3")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy") / "policy", 0)


@pytest.fixture
def prm(policy: Path, tmp_path: Path) -> Path:
    return write_headed(policy, tmp_path / "prm")


def change_json(file: Path, **changes: Any) -> None:
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, **changes}))


def test_a_prm_of_the_policys_own_fits(prm: Path, policy: Path, tmp_path: Path) -> None:
    check_prm(prm, policy, None, tmp_path)


def test_what_does_not_fit_is_named(prm: Path, policy: Path, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"no score\.weight"):
        check_prm(policy, policy, None, tmp_path)
    tensors = load_file(prm / "model.safetensors")
    save_file({**tensors, HEAD: torch.zeros(1, 64)}, prm / "model.safetensors")
    with pytest.raises(BadModel, match="head has 64 inputs, its model gives 128"):
        check_prm(prm, policy, None, tmp_path)


def test_a_prm_that_cannot_read_the_longest_response_is_refused(
    prm: Path, policy: Path, tmp_path: Path
) -> None:
    check_prm(prm, policy, None, tmp_path, max_model_len=512)
    with pytest.raises(BadModel, match=r"reads 512 tokens at most.*max_model_len = 513"):
        check_prm(prm, policy, None, tmp_path, max_model_len=513)
    text = json.loads((prm / "config.json").read_text())["text_config"]
    stretched = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    change_json(prm / "config.json", text_config={**text, "rope_parameters": stretched})
    check_prm(prm, policy, None, tmp_path, max_model_len=1024)


def test_another_tokenizer_is_refused(prm: Path, policy: Path, tmp_path: Path) -> None:
    told = json.loads((prm / "tokenizer.json").read_text())
    vocabulary = told["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (prm / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(BadModel, match="tokenizer has other tokens"):
        check_prm(prm, policy, None, tmp_path)


def test_another_image_processor_is_refused(prm: Path, policy: Path, tmp_path: Path) -> None:
    file = prm / "processor_config.json"
    told = json.loads(file.read_text())
    holder = told.get("image_processor", told)
    holder["image_mean"] = [0.1, 0.1, 0.1]
    file.write_text(json.dumps(told))
    with pytest.raises(BadModel, match="makes other pixel_values of a picture"):
        check_prm(prm, policy, None, tmp_path)


def test_another_template_is_refused(prm: Path, policy: Path, tmp_path: Path) -> None:
    file = prm / "chat_template.jinja"
    file.write_text("Hello. " + file.read_text())
    with pytest.raises(BadModel, match="chat template makes other tokens"):
        check_prm(prm, policy, None, tmp_path)


# --- a model that answers at a step tag ----------------------------------------------------------


def test_the_difference_of_two_answers_is_a_head(policy: Path, tmp_path: Path) -> None:
    fitted = fit_prm(policy, tmp_path / "headed", WORDS)
    processor = load_processor(policy)
    tag, good, bad = (
        processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (WORDS.tag, WORDS.good, WORDS.bad)
    )
    assert list(fitted.tag_ids) == tag
    rows = load_file(policy / "model.safetensors")["model.text_model.embed_tokens.weight"]
    assert torch.allclose(read_head(fitted.folder), (rows[good] - rows[bad]))
    assert (policy / "config.json").read_text() != (fitted.folder / "config.json").read_text()


def test_its_scores_are_the_probability_of_good_among_the_two(policy: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    fitted = fit_prm(policy, tmp_path / "headed", WORDS)
    processor, pictures = load_processor(policy), ImageCache(FILES.__getitem__)
    prompt = processor.prompt(QUESTION, 1)
    request = ScoreRequest(prompt, IMAGES[:1], tuple(range(50, 70)), (6, 15))
    scorer = TransformersScorer(FILES.__getitem__, max_model_len=256, tag_ids=fitted.tag_ids)
    scorer.load_policy(fitted.folder)
    (found,) = scorer.score([request])
    model = AutoModelForImageTextToText.from_pretrained(policy, dtype=torch.float32).eval()
    inputs = processor.inputs(prompt, [pictures.get(IMAGES[0])])
    good, bad = (
        processor.tokenizer(text, add_special_tokens=False)["input_ids"][0]
        for text in (WORDS.good, WORDS.bad)
    )
    ids, tag = request.token_ids_T, list(fitted.tag_ids)
    for step, read in enumerate([[*ids[:6], *tag], [*ids[:6], *tag, *ids[6:15], *tag]]):
        whole = torch.cat([inputs["input_ids"], torch.tensor([read])], dim=1)
        rest = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
        with torch.no_grad():
            logits = model(input_ids=whole, **rest).logits[0, -1]
        wanted = torch.softmax(logits[[good, bad]], dim=0)[0]
        assert found[step] == pytest.approx(float(wanted), abs=1e-5)


def test_a_tag_or_answer_that_is_not_there_is_named(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"prm\.good = 'very good'"):
        fit_prm(policy, tmp_path / "a", replace(WORDS, good="very good"))
    with pytest.raises(BadModel, match=r"prm\.tag = ''"):
        fit_prm(policy, tmp_path / "b", replace(WORDS, tag=""))


# --- shards --------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = open_store(tmp_path / "store")
    for sha, data in FILES.items():
        made.put(image_path(sha), data)
    return made


def rollouts(policy: Path, texts: list[str]) -> list[Rollout]:
    processor = load_processor(policy)
    ids = processor.input_ids(
        processor.prompt(QUESTION, 1), IMAGES[:1], ImageCache(FILES.__getitem__).get
    )
    return [
        Rollout(
            "q", "id-q", index, index, "policy-1", 1.0, 1.0, prompt_hash(ids), len(ids),
            tuple(token), tuple(-0.5 for _ in token), text, "stop",
        )
        for index, text in enumerate(texts)
        for token in [processor.tokenizer(text, add_special_tokens=False)["input_ids"]]
    ]  # fmt: skip


def random_head(prm: Path) -> Path:
    tensors = load_file(prm / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    tensors[HEAD] = torch.randn(1, 128, generator=generator) / 8
    save_file(tensors, prm / "model.safetensors", metadata={"format": "pt"})
    return prm


TEXTS = ["a is 3\n\nb is 4\n\n# Answer\n\n7", "a is 3\n\n# Answer\n\n5", "# Answer\n\n7", "a\n\nb"]

LONG = "\n\n".join([*(f"row {number}" for number in range(20)), "# Answer", "7"])


def spec_of(store: Store, prm: Path, rows: list[Rollout], **changes: Any) -> dict[str, Any]:
    published = publish_folder(store, prm)
    path = put_content(store, "rollout", "r", to_parquet(rows, Rollout), "parquet")
    return {
        "id": "shard-1", "key": "score-1", "prm": published.version, "prm_path": published.path,
        "rollout": path, "queries": {"q": {"text": QUESTION, "images": list(IMAGES[:1])}},
        "rows": [("q", i) for i in range(len(rows))], "aggregate": "min", **changes,
    }  # fmt: skip


def shard_scorer(store: Store, folder: Path) -> ShardScorer:
    def fetch(sha: str) -> bytes:
        return get_verified(store, image_path(sha))

    return ShardScorer(
        lambda tag: TransformersScorer(fetch, max_model_len=256, tag_ids=tag),
        store, ImageCache(fetch), folder / "cache",
    )  # fmt: skip


def test_a_shard_is_scored_and_what_has_no_step_is_counted(
    store: Store, prm: Path, policy: Path, tmp_path: Path
) -> None:
    rows = rollouts(policy, [*TEXTS, LONG])
    done = shard_scorer(store, tmp_path).run(spec_of(store, random_head(prm), rows))  # type: ignore[arg-type]
    scores = from_parquet(get_verified(store, done["scores"]), Score)
    assert done["excluded"] == {"no_steps": 1}
    assert [score.sample_index for score in scores] == [0, 1, 3, 4]
    processor = load_processor(policy)
    for score in scores:
        ends = step_ends(rows[score.sample_index].token_ids, processor.decode)
        assert score.step_ends == merged(ends, 16)
        assert score.reward_p == min(score.step_scores)
    assert [len(score.step_scores) for score in scores] == [2, 1, 1, 16]
    assert len(ends) == 20
    assert set(scores[-1].step_ends) < set(ends)
    assert scores[-1].step_ends[-1] == ends[-1]


def test_rows_that_are_not_there_and_other_prompts_are_refused(
    store: Store, prm: Path, policy: Path, tmp_path: Path
) -> None:
    rows, scorer = rollouts(policy, TEXTS[:2]), shard_scorer(store, tmp_path)
    with pytest.raises(ObjectLost, match="2 of the 3 rows"):
        scorer.run({**spec_of(store, prm, rows), "rows": [("q", i) for i in range(3)]})  # type: ignore[typeddict-item]
    with pytest.raises(BadModel, match="other tokens of its prompt"):
        scorer.run(spec_of(store, prm, [replace(r, prompt_sha256="0" * 64) for r in rows]))  # type: ignore[arg-type]
    spec = spec_of(store, prm, rows)
    store.delete(image_path(IMAGES[0]))
    other = shard_scorer(store, tmp_path / "other")
    with pytest.raises(Exception, match=IMAGES[0][:16]):
        other.run(spec)  # type: ignore[arg-type]


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


def with_reader(monkeypatch: pytest.MonkeyPatch, before: Callable[[Any], None]) -> None:
    """Have something happen whenever a shard is about to be read."""
    rows = ShardReader.rows

    def after(self: ShardReader, spec: Any) -> Any:
        before(spec)
        return rows(self, spec)

    monkeypatch.setattr(ShardReader, "rows", after)


def test_a_shard_is_read_while_another_is_scored(
    store: Store, prm: Path, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = spec_of(store, prm, rollouts(policy, TEXTS))
    second: Any = {**first, "id": "shard-2", "key": "score-2"}
    read = Event()
    with_reader(monkeypatch, lambda spec: read.set() if spec["id"] == "shard-2" else None)
    with ThreadPoolExecutor(1) as pool:
        later: list[Any] = []

        def meanwhile() -> None:
            later.append(pool.submit(scorer.run, second))
            assert read.wait(120), "the second shard was not read"

        engine = Halves(meanwhile)
        scorer = ShardScorer(
            lambda tag: engine, store, ImageCache(FILES.__getitem__), tmp_path / "cache"
        )
        done = scorer.run(first)  # type: ignore[arg-type]
        assert later[0].result()["scores"].startswith("shards/score/score-2/")
    assert done["scores"].startswith("shards/score/score-1/")
    assert [count for _, count in engine.scored] == [4, 4]


def test_a_shard_is_scored_by_its_own_prm_whatever_was_loaded_since_it_was_read(
    store: Store, prm: Path, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rollouts(policy, TEXTS)
    first = spec_of(store, prm, rows)
    second = {**spec_of(store, random_head(prm), rows), "id": "shard-2", "key": "score-2"}
    assert first["prm_path"] != second["prm_path"]
    engine = Halves()
    scorer = ShardScorer(
        lambda tag: engine, store, ImageCache(FILES.__getitem__), tmp_path / "cache"
    )

    def before(spec: Any) -> None:
        if spec["id"] == "shard-1":
            scorer.run(second)  # type: ignore[arg-type]

    with_reader(monkeypatch, before)
    scorer.run(first)  # type: ignore[arg-type]
    names = [one["prm_path"].rsplit("/", 1)[-1] for one in (second, first)]
    assert [name.removesuffix("-headed") for name, _ in engine.scored] == names


def test_the_actor_tells_its_failures_apart(
    store: Store, prm: Path, policy: Path, tmp_path: Path
) -> None:
    settings = ScorerSettings(
        EngineSettings(precision="float32", max_model_len=256),
        store.url, str(tmp_path / "cache"), backend="transformers",
    )  # fmt: skip
    actor = ScorerActor(settings)
    assert actor.start().failure is None
    spec = spec_of(store, random_head(prm), rollouts(policy, TEXTS))
    outcome = actor.run(spec)  # type: ignore[arg-type]
    assert outcome.failure is None
    assert outcome.value["scores"].startswith("shards/score/score-1/")
    assert actor.progress()[0] > 0
    store.delete(spec["rollout"])
    failure = actor.run({**spec, "id": "again"}).failure  # type: ignore[typeddict-item]
    assert failure is not None
    assert (failure.kind, failure.path) == ("lost", spec["rollout"])
    headless = publish_folder(store, policy)
    unfit = {**spec, "prm": headless.version, "prm_path": headless.path}
    failure = actor.run(unfit).failure  # type: ignore[arg-type]
    assert failure is not None
    assert failure.kind == "user"
    assert "score.weight" in failure.reason
