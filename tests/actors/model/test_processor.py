"""Model folders that cannot be used are refused before any engine starts, with what to mend."""

from __future__ import annotations

import ast
import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from actors.model.images import ImageCache
from actors.model.processor import (
    Processor,
    load_processor,
    processor_sha256,
    sampling_logprobs,
)
from actors.model.reading import load_parts
from pipeline.errors import BadData, BadModel, CorruptObject
from pipeline.hashing import sha256_hex
from pipeline.model_settings import FILE, ModelSettings, own_code
from tests.support.models import make_images, make_policy

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy") / "whole", 0)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def edit(file: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(BadModel) as error:
        load_processor(folder)
    assert str(folder) in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_whole_folder_is_accepted(folder: Path) -> None:
    processor = load_processor(folder)
    ids = processor.tokenizer.convert_tokens_to_ids
    assert processor.end_ids == (ids("<end_of_utterance>"),)
    assert set(processor.visual) == {
        ids(token) for token in ("<image>", "<fake_token_around_image>", "<global-img>")
    }
    assert set(processor.forbidden) == {*processor.visual, ids("<pad>")}


# Of three pictures of noise, two of them resized: computed where torchvision was not installed.
DIGITS_PIXELS = "74a781c125eedeca6fa1a17d28e9adb1dfaab1e31312ef429d1404c9a0324a39"


def pixels_sha256(processor: Processor) -> str:
    rng = np.random.default_rng(0)
    made = []
    for size in ((32, 32, 3), (50, 41, 3), (20, 64, 3)):
        picture = Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8))
        inputs = processor.inputs(processor.prompt("?", 1), [picture])
        names = ("input_ids", "pixel_values", "pixel_attention_mask")
        made += [np.ascontiguousarray(inputs[name].numpy()).tobytes() for name in names]
    return sha256_hex(b"".join(made))


def test_the_pixels_of_digits_do_not_depend_on_what_is_installed() -> None:
    assert pixels_sha256(load_processor(ROOT / "assets" / "digits-base")) == DIGITS_PIXELS


def test_the_image_backend_is_that_of_the_settings_and_part_of_the_processor(folder: Path) -> None:
    other = ModelSettings(image_backend="torchvision")
    there = load_processor(folder, settings=other)
    assert pixels_sha256(there) != DIGITS_PIXELS
    plain = processor_sha256(folder)
    for name, data in other.files().items():
        (folder / name).write_bytes(data)
    assert pixels_sha256(load_processor(folder)) == pixels_sha256(there)
    assert processor_sha256(folder) != plain
    with pytest.raises(BadModel, match=r"set policy\.image_backend=\"torchvision\""):
        load_processor(folder, settings=ModelSettings())


def test_a_folder_is_checked_with_as_few_image_tokens_as_it_is_published(folder: Path) -> None:
    def larger(config: Any) -> None:
        config["image_processor"] |= {"size": {"longest_edge": 128}}

    edit(folder / "processor_config.json", larger)
    sizes = []
    for tokens in (None, 4):
        processor = load_processor(folder, settings=ModelSettings(max_image_tokens=tokens))
        sizes.append(processor._processor.image_processor.size["longest_edge"])
        assert processor.folder == folder
    assert sizes == [128, 32]
    with pytest.raises(BadModel, match="makes 4 tokens of the smallest picture: give 4 or more"):
        load_processor(folder, settings=ModelSettings(max_image_tokens=3))


def test_a_family_without_the_image_backend_uses_the_other_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one_backend = {"image_processor_type": "Llama4ImageProcessor"}
    edit(folder / "processor_config.json", lambda file: file["image_processor"].update(one_backend))
    _, processor = load_parts(folder, ModelSettings())
    assert processor.image_processor.backend == "torchvision"
    assert f"{folder}: its family has no image processor of pil" in caplog.text
    assert "that of torchvision is used" in caplog.text


def test_embeddings_without_a_token_are_forbidden(folder: Path) -> None:
    """Real models pad their vocabulary; an id that no token has cannot be decoded."""
    plain = load_processor(folder)
    assert not plain.forbidden_in(range(440, 448))
    edit(folder / "config.json", lambda config: config["text_config"].update(vocab_size=512))
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            weights[name] = torch.nn.functional.pad(weight, (0, 0, 0, 64))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    padded = load_processor(folder)
    assert padded.forbidden == (*plain.forbidden, *range(448, 512))
    assert padded.forbidden_in([7, 448])


def test_embeddings_that_do_not_fit_tokens_or_weights_are_refused(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config["text_config"].update(vocab_size=440))
    refused(folder, "ids up to 447", "440")
    edit(folder / "config.json", lambda config: config["text_config"].update(vocab_size=512))
    refused(folder, "512 embeddings", "448")
    (folder / "model.safetensors").unlink()
    shutil.copy(folder / "config.json", folder / "other.safetensors")
    refused(folder, "not a complete safetensors file")


@pytest.mark.parametrize(
    ("missing", "word"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json", "tokenizer"),
        ("processor_config.json", "image processor"),
        ("chat_template.jinja", "chat template"),
        ("model.safetensors", "safetensors"),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused(folder: Path, missing: str, word: str) -> None:
    (folder / missing).unlink()
    refused(folder, word)


def test_no_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "policy.path")


def test_weights_that_are_cut_short_are_refused(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:100])
    refused(folder, "safetensors")


def test_another_image_token_is_refused(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(image_token_id=6))
    refused(folder, "image token is 6", "4")


def test_another_number_of_image_tokens_is_refused(folder: Path) -> None:
    edit(folder / "processor_config.json", lambda config: config.update(image_seq_len=9))
    refused(folder, "9 image tokens", "4 features")


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{{ messages[0]['content'][-1]['text'] }}", "0, 0 and 0 image tokens"),
        ("<image>{{ messages[0]['content'][-1]['text'] }}", "1, 1 and 1 image tokens"),
        ("{% for part in messages[0]['content'] %}<image>{% endfor %}", "drops the question"),
        ("{% for %}", "template"),
    ],
)
def test_a_template_that_loses_something_is_refused(folder: Path, template: str, word: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    refused(folder, word)


def test_a_template_that_writes_the_time_writes_the_same_one_for_ever(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    plain = template.read_text()
    assert not load_processor(folder).writes_the_time
    template.write_text("{{ strftime_now('%d %b %Y %H:%M:%S.%f') }}" + plain)
    processor = load_processor(folder)
    assert processor.writes_the_time
    assert processor.prompt("Hi", 0).startswith("26 Jul 2024 00:00:00.000000")
    ids = processor.input_ids(
        processor.prompt("Hi", 0), (), ImageCache(make_images(0).__getitem__).get
    )
    again = load_processor(folder)
    assert (
        again.input_ids(again.prompt("Hi", 0), (), ImageCache(make_images(0).__getitem__).get)
        == ids
    )
    # as Llama 3.2 Vision asks for it
    template.write_text(
        "{% if strftime_now is defined %}{% set d = strftime_now('%d %b %Y') %}"
        "{% else %}{% set d = 'never' %}{% endif %}Today is {{ d }}" + plain
    )
    assert load_processor(folder).prompt("Hi", 0).startswith("Today is 26 Jul 2024")


@pytest.mark.parametrize("random", ["{{ range(99) | random }}", "{{ lipsum(1) }}"])
def test_a_template_that_draws_at_random_is_refused(folder: Path, random: str) -> None:
    template = folder / "chat_template.jinja"
    template.write_text(random + template.read_text())
    refused(folder, "does not write the same prompt twice")


def test_code_of_the_model_is_not_run_without_consent(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('code of the model was run')")
    edit(
        folder / "config.json",
        lambda config: config.update(model_type="evil", auto_map={"AutoConfig": "evil.Evil"}),
    )
    refused(folder, "brings code of its own (evil.py), which is not run", "docs/families.md")
    for settings in (ModelSettings(), ModelSettings(image_backend="torchvision")):
        with pytest.raises(BadModel, match=r"set policy\.trust_remote_code=true"):
            load_processor(folder, settings=settings)
    # Only the settings of the present command consent, whatever the folder was published as.
    (folder / FILE).write_bytes(ModelSettings(trust_remote_code=True).files()[FILE])
    refused(folder, "brings code of its own (evil.py)")


def test_a_folder_that_does_not_load_is_not_said_to_bring_code(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(model_type="nobody-knows"))
    with pytest.raises(BadModel, match="nobody-knows") as error:
        load_processor(folder)
    assert "code of its own" not in str(error.value)


def test_code_is_named_however_a_folder_names_it(folder: Path) -> None:
    assert own_code(folder) == []
    maps = {"AutoTokenizer": ["org/name--tokens.Slow", None], "AutoConfig": "inner.parts.Config"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": maps}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"auto_map": ["pixels.Images"]}))
    assert own_code(folder) == ["inner.parts.py", "org/name--tokens.py", "pixels.py"]


def test_every_model_that_is_loaded_says_whether_its_code_is_run() -> None:
    calls = [
        (path, node)
        for package in ("actors", "jobs", "pipeline", "cluster")
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "from_pretrained"
    ]
    assert len(calls) > 5
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, node in calls
        if "trust_remote_code" not in {keyword.arg for keyword in node.keywords}
    ]
    assert silent == []


def test_the_hash_of_a_processor_says_whether_tokens_could_differ(folder: Path) -> None:
    before = processor_sha256(folder)
    edit(folder / "generation_config.json", lambda config: config.update(top_k=3))
    assert processor_sha256(folder) == before
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert processor_sha256(folder) != before


def test_code_beside_a_processor_is_part_of_its_hash(folder: Path) -> None:
    before = processor_sha256(folder)
    (folder / "processing_own.py").write_text("x = 1\n")
    with_code = processor_sha256(folder)
    (folder / "processing_own.py").write_text("x = 2\n")
    assert len({before, with_code, processor_sha256(folder)}) == 3


def test_prompt_ids_hold_one_run_of_image_tokens_for_each_image(folder: Path) -> None:
    processor = load_processor(folder)
    files = make_images(2)
    cache = ImageCache(files.__getitem__)
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    for n in range(3):
        prompt = processor.prompt("What is it?", n)
        ids = processor.input_ids(prompt, tuple(files)[:n], cache.get)
        assert ids.count(image) == 4 * n
    assert cache.fetched == 2


def test_text_with_a_special_token_is_bad_data(folder: Path) -> None:
    with pytest.raises(BadData, match="<image>"):
        load_processor(folder).prompt("What is an <image>?", 1)


def test_the_start_token_is_not_written_twice(folder: Path) -> None:
    edit(
        folder / "tokenizer_config.json",
        lambda config: config.update(bos_token="<|user|>", add_bos_token=True),
    )
    processor = load_processor(folder)
    prompt = processor.prompt("Hi", 0)
    start = processor.tokenizer.convert_tokens_to_ids("<|user|>")
    no_images = ImageCache(make_images(0).__getitem__).get
    assert processor.input_ids(prompt, (), no_images).count(start) == 1


def test_an_image_that_is_not_one_or_another_is_told_apart() -> None:
    (sha, data), (other, _) = make_images(2).items()
    with pytest.raises(CorruptObject, match=other):
        ImageCache({other: data}.__getitem__).get(other)
    from pipeline.hashing import sha256_hex

    half = data[: len(data) // 2]
    with pytest.raises(BadData, match=sha256_hex(half)):
        ImageCache({sha256_hex(half): half}.__getitem__).get(sha256_hex(half))
    assert ImageCache({sha: data}.__getitem__).get(sha).mode == "RGB"


def test_images_beyond_the_budget_are_let_go_and_fetched_again() -> None:
    files = make_images(3)
    cache = ImageCache(files.__getitem__, budget=2 * 32 * 32 * 3)
    first, second, third = files
    for sha in (first, second, first, third, first, second):
        cache.get(sha)
    assert cache.fetched == 4


def test_sampling_logprobs_are_those_of_the_masked_and_cut_distribution() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, 5.0]])
    token = torch.tensor([0])
    plain = sampling_logprobs(logits, token, forbidden=[3], temperature=1.0)
    assert plain.item() == pytest.approx(torch.tensor([2.0, 1.0, 0.0]).log_softmax(0)[0].item())
    warm = sampling_logprobs(logits, token, forbidden=[3], temperature=2.0)
    assert warm.item() == pytest.approx(torch.tensor([1.0, 0.5, 0.0]).log_softmax(0)[0].item())
    cut = sampling_logprobs(logits, token, forbidden=[3], temperature=1.0, top_p=0.9)
    assert cut.item() == pytest.approx(torch.tensor([2.0, 1.0]).log_softmax(0)[0].item())


def test_a_flag_is_no_token_id(folder: Path) -> None:
    """MiniCPM-V's processor has `default_use_image_id = True`, and token 1 is `"` there."""
    loaded = load_processor(folder)
    raw = copy.copy(loaded._processor)
    raw.default_use_image_id, raw.video_token_id = True, 9
    flagged = Processor(folder, raw, loaded.config)
    assert set(flagged.visual) == {*loaded.visual, 9}


def test_labels_that_a_processor_makes_are_not_given_to_the_model(folder: Path) -> None:
    loaded = load_processor(folder)
    plain = loaded._processor

    class WithLabels:
        tokenizer, chat_template = plain.tokenizer, plain.chat_template

        def __call__(self, **asked: Any) -> dict[str, Any]:
            made = dict(plain(**asked))
            return {**made, "labels": made["input_ids"]}

    prompt = loaded.prompt("Hi", 0)
    labelled = Processor(folder, WithLabels(), loaded.config)
    assert set(labelled.inputs(prompt, [])) == set(loaded.inputs(prompt, []))
