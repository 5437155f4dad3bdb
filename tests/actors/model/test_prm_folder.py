"""A PRM's fit to the policy, and models that answer at a step tag."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.model.images import ImageCache
from actors.model.prm_folder import TagWords, check_prm, fit_prm
from actors.model.processor import load_processor
from actors.model.value_head import HEAD, read_head, write_headed
from actors.scoring.transformers_scorer import TransformersScorer
from pipeline.errors import BadModel
from pipeline.prm.step_scores import ScoreRequest
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
