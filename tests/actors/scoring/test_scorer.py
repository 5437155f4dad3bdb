"""Step scores of vLLM against transformers', whatever responses share with each other."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.generation.engine_settings import EngineSettings
from actors.model.images import ImageCache
from actors.model.prm_folder import TagWords, fit_prm
from actors.model.processor import Processor, load_processor
from actors.model.value_head import HEAD, LIKELIHOOD_KEY, read_likelihood, write_headed
from actors.scoring.transformers_scorer import TransformersScorer
from actors.scoring.vllm_scorer import VllmScorer, share_beside
from pipeline.errors import BadConfig, BadModel
from pipeline.prm.step_scores import (
    Excluded,
    Memo,
    ScoreRequest,
    Scores,
    StepKeys,
    feed,
    probability,
)
from tests.support.models import make_images, make_policy

SETTINGS = EngineSettings(
    precision="float32",
    max_model_len=256,
    max_sequences=64,
    kv_cache_gib=0.25,
    threads=1,
    block_size=32,
)
FILES = make_images(50)
TOLERANCE = 1e-4


def make_prm(folder: Path, seed: int, likelihood: float | None = None) -> Path:
    """A random policy with a random head, which sees what the model finds likely or does not."""
    policy = make_policy(folder.with_name(f"{folder.name}-policy"), seed)
    made = write_headed(policy, folder, likelihood=likelihood is not None)
    if likelihood is not None:
        config = json.loads((made / "config.json").read_text("utf-8"))
        config[LIKELIHOOD_KEY] = likelihood
        (made / "config.json").write_text(json.dumps(config), "utf-8")
    tensors = load_file(made / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    tensors[HEAD] = torch.randn(1, 128, generator=generator) / 8
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    return made


# A random token costs about 6 nats: a weight that moves a probability, but not to 0.
@pytest.fixture(scope="module", params=[None, 0.01], ids=["hidden", "likelihood"])
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return make_prm(tmp_path_factory.mktemp("prm") / "prm", 0, request.param)


@pytest.fixture(scope="module")
def processor(folder: Path) -> Processor:
    return load_processor(folder)


@pytest.fixture(scope="module")
def requests(processor: Processor) -> list[ScoreRequest]:
    """250 responses to 50 images: five kinds of kinship with the first one of each image."""
    rng, made = random.Random(0), []
    allowed = sorted(set(range(processor.vocabulary)) - set(processor.forbidden) - {1})
    for number, sha in enumerate(FILES):
        prompt = processor.prompt(f"What is the sum of row {number % 4}? " + "Think. " * 20, 1)
        tokens = [rng.choice(allowed) for _ in range(60)]
        ends = tuple(sorted(rng.sample(range(8, 56), 4)))
        first = ScoreRequest(prompt, (sha,), tuple(tokens), ends)
        other = [*tokens[: ends[2]], *(rng.choice(allowed) for _ in range(20))]
        made += [
            first,
            replace(first, token_ids_T=tuple(other), ends_S=(*ends[:3], ends[2] + 12)),
            first,
            replace(first, token_ids_T=tuple(tokens[: ends[2] + 3]), ends_S=ends[:3]),
            # The same text, its steps cut elsewhere, as when many are merged.
            replace(first, ends_S=(ends[0] + 1, ends[3])),
        ]
    rng.shuffle(made)
    return made


@pytest.fixture(scope="module")
def expected(folder: Path, requests: list[ScoreRequest]) -> list[Scores | Excluded]:
    scorer = TransformersScorer(FILES.__getitem__, max_model_len=256)
    scorer.load_policy(folder)
    return scorer.score(requests)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[VllmScorer]:
    made = VllmScorer(SETTINGS, ImageCache(FILES.__getitem__).get)
    made.load_policy(folder)
    yield made
    made.close()


def check(found: Sequence[Scores | Excluded], expected: Sequence[Scores | Excluded]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert not isinstance(a, str)
        assert not isinstance(b, str)
        assert len(a) == len(b)
        assert max(abs(x - y) for x, y in zip(a, b, strict=True)) < TOLERANCE


def test_the_reference_tells_steps_apart(expected: list[Scores | Excluded]) -> None:
    scored = [one for one in expected if not isinstance(one, str)]
    steps = {round(score, 5) for one in scored for score in one}
    assert len(scored) == len(expected) == 250
    assert len(steps) > 250
    assert max(steps) - min(steps) > 0.3


def test_scores_are_those_of_transformers_with_reuse(
    engine: VllmScorer, requests: list[ScoreRequest], expected: list[Scores | Excluded]
) -> None:
    check(engine.score(requests), expected)
    asked, known = engine.asked_again, len(engine.memo)
    check(engine.score(requests), expected)  # the same batch again: all from the memo
    assert (engine.asked_again, len(engine.memo)) == (asked, known)
    # The caches hold every prefix, the memo none: this is the trap itself.
    engine.memo.clear()
    check(engine.score(requests), expected)
    assert engine.asked_again > asked


def test_scores_are_those_of_transformers_without_reuse(
    engine: VllmScorer, requests: list[ScoreRequest], expected: list[Scores | Excluded]
) -> None:
    engine._reuse = False
    try:
        check(engine.score(requests), expected)
    finally:
        engine._reuse = True


def test_a_memo_that_forgets_loses_nothing(
    engine: VllmScorer, requests: list[ScoreRequest], expected: list[Scores | Excluded]
) -> None:
    whole, engine.memo = engine.memo, Memo(most=12)
    try:
        for start in range(0, 40, 2):
            check(engine.score(requests[start : start + 2]), expected[start : start + 2])
    finally:
        engine.memo = whole


def test_what_cannot_be_scored_is_named(
    engine: VllmScorer, folder: Path, requests: list[ScoreRequest]
) -> None:
    plain = TransformersScorer(FILES.__getitem__, max_model_len=256)
    plain.load_policy(folder)
    short = requests[0]
    asked = [
        replace(short, ends_S=()),
        replace(short, token_ids_T=short.token_ids_T * 9, ends_S=(8, 250)),
        short,
    ]
    for scorer in (engine, plain):
        found = scorer.score(asked)
        assert found[:2] == ["no_steps", "too_long"]
        assert len(found[2]) == len(short.ends_S)


def test_an_engine_that_returns_nothing_for_a_step_is_an_error(
    engine: VllmScorer, requests: list[ScoreRequest]
) -> None:
    from actors.generation.vllm_engine import EngineBroken

    whole, engine.memo = engine.memo, Memo(most=0)
    try:
        with pytest.raises(EngineBroken, match="did not return a score"):
            engine.score(requests[:1])
    finally:
        engine.memo = whole


def test_scores_of_a_model_that_reads_a_tag_stand_at_the_tag(
    folder: Path, requests: list[ScoreRequest]
) -> None:
    plain = TransformersScorer(FILES.__getitem__, max_model_len=256)
    tagged = TransformersScorer(FILES.__getitem__, max_model_len=256, tag_ids=(77, 78))
    for scorer in (plain, tagged):
        scorer.load_policy(folder)
    first = requests[0]
    ids, (a, b, *_) = first.token_ids_T, first.ends_S
    written = (*ids[:a], 77, 78, *ids[a:b], 77, 78)
    by_hand = replace(first, token_ids_T=written, ends_S=(a + 2, b + 4))
    found = tagged.score([replace(first, ends_S=(a, b))])
    check(found, plain.score([by_hand]))


def test_vllm_reads_the_tag_of_a_model_that_answers_there(
    engine: VllmScorer, tmp_path: Path, requests: list[ScoreRequest], folder: Path
) -> None:
    policy = make_policy(tmp_path / "policy", 3)
    fitted = fit_prm(policy, tmp_path / "headed", TagWords(tag="#", good="7", bad="3"))
    plain = TransformersScorer(FILES.__getitem__, max_model_len=256, tag_ids=fitted.tag_ids)
    plain.load_policy(fitted.folder)
    expected = plain.score(requests[:40])
    engine._tag_ids = fitted.tag_ids
    try:
        engine.load_policy(fitted.folder)
        check(engine.score(requests[:40]), expected)
        engine.memo.clear()  # and where prefixes are in the cache, and no score is known
        check(engine.score(requests[:40]), expected)
    finally:
        engine._tag_ids = ()
        engine.load_policy(folder)


class Watched(VllmScorer):
    """Notes what the engine computed: tokens of each response, and how many it had in its cache."""

    computed: list[tuple[int, int]]

    def _remember(self, item: Any, length: int, output: Any, name: str) -> None:
        self.computed.append((length, output.num_cached_tokens))
        super()._remember(item, length, output, name)


def test_with_deterministic_a_score_is_a_function_of_its_batch_alone(
    engine: VllmScorer, requests: list[ScoreRequest]
) -> None:
    """To the last bit; and as bits may be equal by chance, what the engine computed is compared
    too."""
    watched = copy.copy(engine)
    watched.__class__ = Watched
    assert isinstance(watched, Watched)
    watched.settings = replace(SETTINGS, deterministic=True)
    watched.computed = []
    batch, others = requests[:30], requests[30:]
    found = []
    for before in ([], batch, others[:7], batch[:5], batch[10:] + others[:20]):
        watched.score(before)
        watched.computed.clear()
        found.append((watched.score(batch), tuple(watched.computed)))
    assert found[1:] == found[:-1]
    cached = [count for _, count in found[0][1]]
    assert min(cached) == 0
    assert max(cached) > 0  # within the batch there is reuse


def test_the_token_head_is_the_engines_own_embedding_where_both_are_one(
    engine: VllmScorer, folder: Path
) -> None:
    from actors.scoring.vllm_likelihood import TASK, LikelihoodPooler

    def shared(model: Any) -> bool | None:
        pooler = model.pooler.poolers_by_task[TASK]
        if not isinstance(pooler, LikelihoodPooler):
            return None
        own = next(
            w for name, w in model.named_parameters() if name.endswith("embed_tokens.weight")
        )
        return bool(pooler._head_V_H().data_ptr() == own.data_ptr())

    sees = read_likelihood(folder) is not None
    assert engine._llm.apply_model(shared) == [True if sees else None]


def test_a_token_head_of_its_own_is_read_from_the_folder(tmp_path: Path) -> None:
    from actors.scoring.vllm_likelihood import _head

    policy = make_policy(tmp_path / "policy", 0)
    tensors, own = load_file(policy / "model.safetensors"), torch.randn(448, 128)
    save_file(tensors | {"llm.lm_head.weight": own}, policy / "model.safetensors", {"format": "pt"})
    head = _head(torch.nn.Module(), policy, torch.zeros(1, dtype=torch.float64))()
    assert head.dtype == torch.float64
    assert torch.equal(head.float(), own)


class Counted(torch.Tensor):
    """Token logits are what it is multiplied to; `sizes` says how many at a time."""

    sizes: ClassVar[list[int]] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = super().__torch_function__(func, types, args, kwargs or {})
        if func is torch.Tensor.matmul or func is torch.Tensor.__matmul__:
            cls.sizes.append(found.numel())
        return found


def test_only_a_responses_tokens_are_looked_up_few_at_a_time() -> None:
    from vllm import PoolingParams

    from actors.model.likelihood import RESPONSE_TOKENS
    from actors.scoring.vllm_likelihood import LikelihoodPooler

    Counted.sizes.clear()
    torch.manual_seed(0)
    head, hidden = torch.randn(10, 4), torch.randn(30, 4)
    # The first request was computed from its 5th token on, the second one whole.
    ids = [torch.randint(0, 10, (24,)), torch.randint(0, 10, (10,))]
    cursor = SimpleNamespace(num_scheduled_tokens_cpu=torch.tensor([20, 10]))
    metadata = SimpleNamespace(
        get_pooling_cursor=lambda: cursor,
        get_prompt_token_ids_cpu=lambda: ids,
        pooling_params=[PoolingParams(extra_kwargs={RESPONSE_TOKENS: 15}), PoolingParams()],
    )
    counted = head.as_subclass(Counted)
    pooler = LikelihoodPooler(
        lambda states, _: [part[:, :1] for part in states.split([20, 10])],
        lambda: counted,
        logits_at_once=70,
    )
    first, second = pooler.forward(hidden, metadata)
    expected = (hidden @ head.T).log_softmax(-1)
    for found, start, end, told, unknown in (
        (first, 0, 20, ids[0][4:], 5),
        (second, 20, 30, ids[1], 1),
    ):
        assert torch.equal(found[:, 0], hidden[start:end, 0])
        assert found[:unknown, 1].isnan().all()
        likely = expected[start : end - 1].gather(1, told[1:, None])[unknown - 1 :, 0]
        assert torch.allclose(found[unknown:, 1], likely, atol=1e-6)
    assert (max(Counted.sizes) <= 70, sum(Counted.sizes)) == (True, (15 + 9) * 10)


def test_weights_are_replaced_in_place(
    engine: VllmScorer, tmp_path: Path, requests: list[ScoreRequest], folder: Path
) -> None:
    likelihood = read_likelihood(folder)
    other = make_prm(tmp_path / "other", 1, None if likelihood is None else float(likelihood))
    plain = TransformersScorer(FILES.__getitem__, max_model_len=256)
    plain.load_policy(other)
    engine.load_policy(other)
    check(engine.score(requests[:30]), plain.score(requests[:30]))
    engine.load_policy(folder)


def test_a_model_that_scores_nan_or_has_no_head_is_refused(
    engine: VllmScorer, tmp_path: Path, requests: list[ScoreRequest], folder: Path
) -> None:
    with pytest.raises(BadModel, match=r"no score\.weight"):
        engine.load_policy(make_policy(tmp_path / "policy", 0))
    broken = make_prm(tmp_path / "broken", 2)
    tensors = load_file(broken / "model.safetensors")
    name = next(n for n in tensors if n.endswith("layers.0.input_layernorm.weight") and "text" in n)
    tensors[name] = torch.full_like(tensors[name], torch.nan)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    plain = TransformersScorer(FILES.__getitem__, max_model_len=256)
    plain.load_policy(broken)
    engine.load_policy(broken)
    try:
        for scorer in (plain, engine):
            with pytest.raises(BadModel, match="gives nan for step 1 of response 3 to query q7"):
                scorer.score([replace(one, name="response 3 to query q7") for one in requests[:2]])
    finally:
        engine.load_policy(folder)


def test_keys_tell_apart_whatever_changes_a_score() -> None:
    request = ScoreRequest("prompt", ("image",), (1, 2, 3, 4, 5), (2, 4))
    keys = StepKeys("prompt", ("image",)).of(feed(request))
    assert len(set(keys)) == 2
    shorter = replace(request, token_ids_T=(1, 2, 9, 9), ends_S=(2,))
    assert StepKeys("prompt", ("image",)).of(feed(shorter)) == keys[:1]
    only_last = replace(request, ends_S=(4,))
    assert StepKeys("prompt", ("image",)).of(feed(only_last)) == keys[1:]
    assert StepKeys("other", ("image",)).of(feed(request))[0] not in keys
    assert StepKeys("prompt", ("other",)).of(feed(request))[0] not in keys
    assert StepKeys("prompt", ("image",)).of(feed(request, (7,)))[0] not in keys


def test_probabilities() -> None:
    assert probability(0.0, "it") == 0.5
    assert probability(800.0, "it") == 1.0
    assert probability(-800.0, "it") == 0.0
    assert probability(2.0, "it") == pytest.approx(1 - probability(-2.0, "it"), abs=1e-15)
    for bad in (math.nan, math.inf):
        with pytest.raises(BadModel, match=f"gives {bad} for step 3 of it: it cannot score"):
            probability(bad, "step 3 of it")


def test_a_scorer_takes_less_of_a_gpu_for_what_is_computed_beside_it() -> None:
    gib = 2**30
    assert share_beside(0.5, 2 * gib, 80 * gib) == pytest.approx(0.475)
    with pytest.raises(BadConfig, match=r"= 0.05 of 20.0 GiB has no room for the 2.0 GiB"):
        share_beside(0.05, 2 * gib, 20 * gib)
