"""The real vLLM: tokens, log-probabilities, prefixes, reloads, forbidden ids, and its actor.

One engine serves most tests; a second one, in a process of its own, says what a fresh engine does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.generation.engine_settings import EngineSettings
from actors.generation.held_weights import stored_values
from actors.generation.vllm_engine import EngineBroken, VllmEngine
from actors.model.images import ImageCache
from actors.model.processor import Processor, load_processor, sampling_logprobs
from actors.supervision.failures import CallResult, Failure, call
from actors.training.trainer import Trainer
from pipeline.errors import BadConfig, BadData, BadModel
from pipeline.generation.engine import Sample, SampleRequest
from pipeline.prompts import prompt_hash
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings
from tests.support.engine_requests import FILES, ask
from tests.support.learning import group_of_one
from tests.support.models import make_policy

# A second engine starts in one of them, and on a busy machine that takes minutes.
pytestmark = pytest.mark.timeout(600)

REPOSITORY = Path(__file__).resolve().parents[3]

SETTINGS = EngineSettings(
    precision="float32", max_model_len=256, max_sequences=64, kv_cache_gib=0.25, threads=1
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("policies")
    return make_policy(root / "one", 0), make_policy(root / "two", 1)


@pytest.fixture(scope="module")
def engine(folders: tuple[Path, Path]) -> Iterator[VllmEngine]:
    made = VllmEngine(SETTINGS, ImageCache(FILES.__getitem__).get)
    made.load_policy(folders[0])
    yield made
    made.close()


@pytest.fixture(scope="module")
def processor(folders: tuple[Path, Path]) -> Processor:
    return load_processor(folders[0])


def tokens(samples: Sequence[Sample]) -> list[tuple[int, ...]]:
    return [sample.token_ids_T for sample in samples]


def test_samples_are_what_the_contract_says(engine: VllmEngine, processor: Processor) -> None:
    requests = ask(processor, 64, max_new_tokens=100, temperature=2.0)
    samples = engine.generate(requests)
    open_image = ImageCache(FILES.__getitem__).get
    ends = {"stop": 0, "length": 0}
    for request, sample in zip(requests, samples, strict=True):
        ends[sample.finish] += 1
        assert sample.prompt_token_ids_P == processor.input_ids(
            request.prompt, request.images, open_image
        )
        assert len(sample.logprobs_T) == len(sample.token_ids_T)
        assert max(sample.logprobs_T) <= 0.0
        assert sample.text == processor.decode(sample.token_ids_T)
        ended = [token in processor.end_ids for token in sample.token_ids_T]
        assert not any(ended[:-1])
        assert ended[-1] == (sample.finish == "stop")
        assert sample.finish == "stop" or len(sample.token_ids_T) == 100
    assert min(ends.values()) > 0


def test_the_engine_sees_the_pixels_that_the_learner_sees(
    engine: VllmEngine, processor: Processor
) -> None:
    """Also where torchvision is installed, whose pixels are others."""
    open_image = ImageCache(FILES.__getitem__).get
    images = next(request.images for request in ask(processor, 64) if request.images)
    prompt = processor.prompt("How many?", len(images))
    seen = engine._render(prompt, images)["mm_kwargs"]["image"]
    pixels = torch.cat([item["pixel_values"].data.flatten() for item in seen])
    ours = processor.inputs(prompt, [open_image(sha) for sha in images])["pixel_values"]
    assert torch.equal(pixels, ours.flatten())


def test_a_sample_does_not_depend_on_who_shares_its_batch(
    engine: VllmEngine, processor: Processor
) -> None:
    requests = ask(processor, 80)
    together = tokens(engine.generate(requests))
    assert tokens(engine.generate(requests[::-1]))[::-1] == together
    assert tokens(engine.generate(requests[3:9])) == together[3:9]
    assert tokens(engine.generate([replace(r, seed=r.seed + 1) for r in requests])) != together


def test_two_callers_share_the_engine_and_get_their_own(
    engine: VllmEngine, processor: Processor
) -> None:
    requests = ask(processor, 60)
    alone = tokens(engine.generate(requests))
    found: dict[int, list[Sample]] = {}

    def call(half: int) -> None:
        found[half] = engine.generate(requests[half::2])

    threads = [threading.Thread(target=call, args=[half]) for half in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tokens(found[0]) == alone[0::2]
    assert tokens(found[1]) == alone[1::2]


def logits_of(folder: Path, fed: Sequence[tuple[SampleRequest, Sample]]) -> Iterator[torch.Tensor]:
    """What transformers computes at each sampled position of each sample."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor, cache = load_processor(folder), ImageCache(FILES.__getitem__)
    for request, sample in fed:
        inputs = processor.inputs(request.prompt, [cache.get(sha) for sha in request.images])
        response = torch.tensor([[*request.prefix_token_ids, *sample.token_ids_T]])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], response], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        yield logits[-len(sample.token_ids_T) - 1 : -1]


def deviation(folder: Path, processor: Processor, fed: list[tuple[SampleRequest, Sample]]) -> float:
    worst = 0.0
    for (request, sample), logits in zip(fed, logits_of(folder, fed), strict=True):
        computed = sampling_logprobs(
            logits,
            torch.tensor(sample.token_ids_T),
            forbidden=processor.forbidden,
            temperature=request.temperature,
            top_p=request.top_p,
        )
        reported = torch.tensor(sample.logprobs_T)
        worst = max(worst, (computed - reported).abs().max().item())
    return worst


def as_row(request: SampleRequest, sample: Sample) -> TrainRow:
    prompt = sample.prompt_token_ids_P
    return TrainRow(
        request.prompt, request.images, len(prompt), prompt_hash(prompt), sample.token_ids_T
    )


def test_logprobs_are_those_of_the_learner(
    engine: VllmEngine, folders: tuple[Path, Path], processor: Processor, tmp_path: Path
) -> None:
    """Each of ten thousand tokens, at T = 1 and at another temperature, in float32."""
    settings = LearnSettings(learning_rate=1e-3, batch_size=32, micro_batch=32, precision="float32")
    with group_of_one(tmp_path):
        learner = Trainer(settings, folders[0], FILES.__getitem__)
        for temperature in (1.0, 0.6):
            requests = ask(processor, 170, temperature=temperature, max_new_tokens=80)
            samples = engine.generate(requests)
            assert sum(len(sample.token_ids_T) for sample in samples) >= 10_000
            rows = [as_row(one, sample) for one, sample in zip(requests, samples, strict=True)]
            found = learner.logprobs(rows, temperature)
            assert sorted(found) == list(range(len(rows)))
            for number, sample in enumerate(samples):
                difference = torch.tensor(found[number]) - torch.tensor(sample.logprobs_T)
                assert difference.abs().max().item() < 1e-4
        learner.close()


@pytest.mark.parametrize("temperature", [1.5, 0.0])
def test_logprobs_are_those_of_the_masked_distribution_at_t(
    engine: VllmEngine, folders: tuple[Path, Path], processor: Processor, temperature: float
) -> None:
    """By transformers in float32, response by response; greedily chosen ids have those at T = 1."""
    requests = ask(processor, 30, temperature=temperature, max_new_tokens=40)
    fed = list(zip(requests, engine.generate(requests), strict=True))
    assert sum(len(sample.token_ids_T) for _, sample in fed) > 500
    assert deviation(folders[0], processor, fed) < 1e-4


def test_logprobs_under_a_nucleus_are_renormalised(
    engine: VllmEngine, folders: tuple[Path, Path], processor: Processor
) -> None:
    requests = ask(processor, 12, top_p=0.8)
    fed = list(zip(requests, engine.generate(requests), strict=True))
    assert deviation(folders[0], processor, fed) < 1e-4


def test_forbidden_ids_are_never_sampled(
    engine: VllmEngine, folders: tuple[Path, Path], processor: Processor
) -> None:
    """Without the mask, dozens of them would have been drawn."""
    requests = ask(processor, 90, temperature=2.0, max_new_tokens=60)
    samples = engine.generate(requests)
    fed = list(zip(requests, samples, strict=True))
    expected = sum(
        (logits / 2.0).softmax(dim=-1)[:, list(processor.forbidden)].sum().item()
        for logits in logits_of(folders[0], fed)
    )
    assert expected > 15
    assert not any(processor.forbidden_in(sample.token_ids_T) for sample in samples)


def test_a_response_goes_on_from_sampled_ids(
    engine: VllmEngine, folders: tuple[Path, Path], processor: Processor
) -> None:
    """Greedy decoding from any prefix of a greedy response gives the rest of it."""
    whole_B = ask(processor, 9, temperature=0.0)
    for request, whole in zip(whole_B, engine.generate(whole_B), strict=True):
        for cut in (1, 7, 20):
            prefix = whole.token_ids_T[:cut]
            again = replace(request, prefix_token_ids=prefix, max_new_tokens=24 - cut)
            (sample,) = engine.generate([again])
            assert sample.token_ids_T == whole.token_ids_T[cut:]
            assert sample.prompt_token_ids_P == whole.prompt_token_ids_P
            assert sample.text == whole.text
    drawn = [replace(r, temperature=1.0, prefix_token_ids=(40, 41, 42, 43)) for r in whole_B]
    fed = list(zip(drawn, engine.generate(drawn), strict=True))
    assert deviation(folders[0], processor, fed) < 1e-4


def test_what_no_engine_could_serve_is_bad_data(engine: VllmEngine, processor: Processor) -> None:
    (request,) = ask(processor, 1)
    with pytest.raises(BadData, match="max_model_len"):
        engine.generate([replace(request, prompt=processor.prompt("very " * 300, 0))])
    with pytest.raises(BadData, match="max_model_len"):
        engine.generate([replace(request, prefix_token_ids=(40,) * 250)])
    long = processor.prompt("very " * 40, 0)
    (cut,) = engine.generate([replace(request, prompt=long, max_new_tokens=10_000)])
    assert cut.finish == "stop" or len(cut.prompt_token_ids_P) + len(cut.token_ids_T) == 256
    with pytest.raises(BadConfig, match="temperature"):
        engine.generate([replace(request, temperature=9.0)])
    assert engine.generate([request])


FRESH = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
from actors.generation.engine_settings import EngineSettings
settings = EngineSettings(**json.loads(sys.argv[2]))
os.environ.update(settings.environment())
from actors.model.images import ImageCache
from actors.supervision.failures import CallResult, Failure, call
from actors.model.processor import load_processor
from actors.generation.vllm_engine import VllmEngine
from tests.support.engine_requests import FILES, ask
folder = Path(sys.argv[1])
engine = VllmEngine(settings, ImageCache(FILES.__getitem__).get)
engine.load_policy(folder)
requests = ask(load_processor(folder), 60)
runs = []
for other in (0, 17, 40):
    engine.generate(requests[:other])
    samples = engine.generate(requests)
    runs.append([[sample.token_ids_T, sample.logprobs_T] for sample in samples])
Path(sys.argv[3]).write_text(json.dumps(runs))
"""


def test_a_reloaded_engine_samples_as_a_fresh_one_and_a_deterministic_one_repeats_its_bits(
    engine: VllmEngine, folders: tuple[Path, Path], processor: Processor, tmp_path: Path
) -> None:
    settings = asdict(replace(SETTINGS, deterministic=True))
    command = [sys.executable, "-c", FRESH, str(folders[1]), json.dumps(settings)]
    fresh = subprocess.Popen([*command, str(tmp_path / "runs.json")], cwd=REPOSITORY)
    requests = ask(processor, 60)
    before = tokens(engine.generate(requests))
    engine.load_policy(folders[1])
    after = tokens(engine.generate(requests))
    engine.load_policy(folders[0])
    back = tokens(engine.generate(requests))
    assert fresh.wait() == 0
    runs = json.loads((tmp_path / "runs.json").read_text())
    assert [tuple(ids) for ids, _ in runs[0]] == after
    assert after != before
    assert back == before
    # The same call gives the same bits, whatever the engine did in between.
    assert runs[0] == runs[1] == runs[2]


def test_a_policy_that_does_not_fit_the_one_before_it_is_refused(
    engine: VllmEngine, folders: tuple[Path, Path], processor: Processor, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    other = make_policy(tmp_path / "other", 1)
    tensors = load_file(other / "model.safetensors")
    lacking = dict(list(tensors.items())[1:])
    save_file(lacking, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadModel, match="other tensors"):
        engine.load_policy(other)
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    (other / "chat_template.jinja").write_text("{{ messages[0]['content'][-1]['text'] }}")
    with pytest.raises(BadModel, match="template"):
        engine.load_policy(other)
    assert engine.generate(ask(processor, 2))


def test_a_policy_fits_though_the_folder_of_the_first_one_has_left_the_cache(
    engine: VllmEngine, folders: tuple[Path, Path], processor: Processor
) -> None:
    first = folders[0].rename(folders[0].with_name("gone"))
    try:
        engine.load_policy(folders[1])
        assert engine.generate(ask(processor, 2))
    finally:
        first.rename(folders[0])


class Breaking:
    """Stands where vLLM stands: it takes requests and fails at its first step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.llm_engine = self.renderer = self.default_cmpl_tok_params = self

    def with_kwargs(self, **_: Any) -> None:
        """Options of the tokenizer."""

    def render_cmpl(self, *_: Any) -> list[dict[str, Any]]:
        return [{"type": "token", "prompt_token_ids": [40, 41]}]

    def add_request(self, *_: Any) -> None:
        """Taken."""

    def apply_model(self, _: Any) -> list[Any]:
        return [stored_values(self.folder, "float32")]

    def step(self) -> list[Any]:
        raise RuntimeError("CUDA error: device-side assert triggered")


def test_what_a_person_has_to_mend_is_said_as_it_is_and_breaks_the_engine_too(
    folders: tuple[Path, Path],
) -> None:
    def start(*_: Any) -> None:
        raise BadModel("folder: no weights")

    unfit = VllmEngine(SETTINGS, ImageCache(FILES.__getitem__).get, start=start)
    result = call(unfit.load_policy, folders[0])
    assert result == CallResult(failure=Failure("user", "folder: no weights"))  # it ends the pool
    with pytest.raises(EngineBroken, match="folder: no weights"):
        unfit.reset()
    unfit.close()


def test_an_engine_that_failed_stays_failed(
    folders: tuple[Path, Path], processor: Processor
) -> None:
    pictures = ImageCache(FILES.__getitem__)
    broken = VllmEngine(SETTINGS, pictures.get, start=lambda folder, *_: Breaking(folder))
    broken.load_policy(folders[0])
    for _ in range(2):
        with pytest.raises(EngineBroken, match="device-side assert"):
            broken.generate(ask(processor, 3))
    broken.close()
