"""Which tensor of a model folder gives tokens their logits, and who is told when none does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.model.likelihood import LOGITS_AT_ONCE, TokenHead, bytes_beside, token_head
from actors.model.prm_folder import TagWords, check_prm, fit_prm
from actors.model.value_head import read_head, write_headed
from pipeline.errors import BadModel
from tests.support.models import change_config, make_policy, untied

READ = "model.text_model.embed_tokens.weight"


def hold(folder: Path, *names: str) -> Path:
    """The folder's weights under these names alone."""
    save_file({name: torch.zeros(3, 2) for name in names}, folder / "model.safetensors")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_policy(tmp_path / "policy", 0)


@pytest.mark.parametrize("where", ["", "model.", "llm.", "language_model.", "a.b."])
def test_a_head_of_its_own_is_found_whatever_it_is_called(folder: Path, where: str) -> None:
    own, read = f"{where}lm_head.weight", f"{where}model.embed_tokens.weight"
    expected = TokenHead(own, "model.safetensors", tied=False)
    assert token_head(hold(folder, read, own)) == expected
    assert token_head(hold(untied(folder), read, own)) == expected


def test_the_input_embedding_is_taken_only_where_the_config_ties_it(folder: Path) -> None:
    tied = TokenHead(READ, "model.safetensors", tied=True)
    assert token_head(folder) == tied
    change_config(folder, {"tie_word_embeddings": False}, {})
    assert token_head(folder) == tied  # families say it of the language model alone, too
    with pytest.raises(BadModel, match=rf"{folder}: .* no lm_head.weight, .* tie_word_embeddings"):
        token_head(untied(folder))


def test_a_head_that_cannot_be_told_or_has_a_bias_is_refused(folder: Path) -> None:
    with pytest.raises(BadModel, match=rf"{folder}: a.lm_head.weight, b.lm_head.weight could each"):
        token_head(hold(folder, "a.lm_head.weight", "b.lm_head.weight"))
    with pytest.raises(BadModel, match=rf"{folder}: lm_head.weight has a bias"):
        token_head(hold(folder, "lm_head.weight", "lm_head.bias"))
    with pytest.raises(BadModel, match=rf"{folder}: .* no embed_tokens.weight either"):
        token_head(hold(folder, "wte.weight"))


@pytest.mark.parametrize(("precision", "each"), [("bfloat16", 2), ("float32", 4)])
def test_what_a_scorer_leaves_for_the_likelihood_is_the_head_and_its_logits(
    folder: Path, precision: str, each: int
) -> None:
    held = hold(folder, "lm_head.weight")  # 3 tokens, 2 hidden
    assert bytes_beside(held, precision) == 3 * 2 * each + 12 * LOGITS_AT_ONCE


def test_an_answer_at_a_tag_is_read_under_the_head_of_its_own(folder: Path, tmp_path: Path) -> None:
    words = TagWords(tag="#", good="7", bad="3")
    with pytest.raises(BadModel, match=rf"{folder}: nothing in it gives tokens their logits"):
        fit_prm(untied(folder), tmp_path / "none", words)
    assert not (tmp_path / "none").exists()
    tensors = load_file(folder / "model.safetensors")
    own = torch.randn(tensors[READ].shape, generator=torch.Generator().manual_seed(0))
    save_file({**tensors, "lm_head.weight": own}, folder / "model.safetensors", {"format": "pt"})
    fitted = fit_prm(folder, tmp_path / "headed", words)
    good, bad = ids(folder, words.good), ids(folder, words.bad)
    assert torch.equal(read_head(fitted.folder), own[good : good + 1] - own[bad : bad + 1])


def ids(folder: Path, word: str) -> int:
    from actors.model.processor import load_processor

    (found,) = load_processor(folder).tokenizer(word, add_special_tokens=False)["input_ids"]
    return int(found)


def test_a_prm_that_is_to_see_it_and_cannot_is_refused(folder: Path, tmp_path: Path) -> None:
    prm = untied(write_headed(folder, tmp_path / "prm", likelihood=True))
    with pytest.raises(BadModel, match=rf"{prm}: nothing in it gives tokens their logits"):
        check_prm(prm, folder, None, tmp_path)
    check_prm(untied(write_headed(folder, tmp_path / "plain")), folder, None, tmp_path)
