"""A process reward model from wherever: is it one, does it fit the policy, how is it read?

Two kinds can be used. One has a `score` head. The other answers a good or a bad token at a step
tag; its probability of "good" among the two is the sigmoid of the difference of their logits, so
the difference of the two rows of its token head *is* a `score` head, read at the tag. It is
rewritten once into a folder of the first kind, and every scorer serves both.

A PRM scores the policy's own tokens (one source of tokens): its tokenizer, image processor and
chat template must make of a prompt what the policy's make.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.model.likelihood import TokenHead, token_head
from actors.model.processor import Processor, load_processor
from actors.model.text_config import most_positions
from actors.model.value_head import copy_with_head, read_head, read_likelihood
from pipeline.errors import BadData, BadModel
from pipeline.model_settings import ModelSettings

_PROBES = ("How many of these are red?", "3 + 4 = 7, so x\u00b2 > 10.\n\n# Answer\n\n7")


@dataclass(frozen=True)
class TagWords:
    """How a model that answers at a step tag is asked and answers, as text."""

    tag: str
    good: str
    bad: str


@dataclass(frozen=True)
class FittedPrm:
    """A folder with a `score` head, and the ids that are read after each step (none: no tag)."""

    folder: Path
    tag_ids: tuple[int, ...] = ()


def fit_prm(
    folder: Path,
    headed: Path,
    tag: TagWords | None,
    *,
    settings: ModelSettings | None = None,
    trusted: bool = False,
) -> FittedPrm:
    """The PRM in `folder` as scorers take it; one without a head is rewritten into `headed`.

    settings, trusted: as `load_processor` takes them.

    Raises:
        BadModel: it has no head, its tag or answers are not tokens of it, or it has no (one) token
            head to answer with.
    """
    if tag is None:
        read_head(folder)
        return FittedPrm(folder)
    processor = load_processor(folder, settings=settings, trusted=trusted)
    ids = [
        processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (tag.tag, tag.good, tag.bad)
    ]
    for name, text, found in zip(("good", "bad"), (tag.good, tag.bad), ids[1:], strict=True):
        if len(found) != 1:
            raise BadModel(
                f"{folder}: prm.{name} = {text!r} is {len(found)} tokens of its tokenizer; the "
                "model's answer at a step tag is one"
            )
    if not ids[0]:
        raise BadModel(f"{folder}: prm.tag = {tag.tag!r} is no token of its tokenizer")
    if processor.forbidden_in(ids[0]):
        raise BadModel(f"{folder}: prm.tag = {tag.tag!r} is an image placeholder or padding")
    if not (headed / "config.json").is_file():
        tokens = token_head(folder, processor.settings.trust_remote_code)
        _write_difference(folder, headed, tokens, good=ids[1][0], bad=ids[2][0])
    return FittedPrm(headed, tuple(ids[0]))


def _write_difference(
    folder: Path, headed: Path, tokens: TokenHead, *, good: int, bad: int
) -> None:
    from safetensors import safe_open

    with safe_open(folder / tokens.file, framework="pt") as held:
        rows = held.get_slice(tokens.name)
        difference = (rows[good : good + 1].float() - rows[bad : bad + 1].float()).contiguous()
    # Complete before it has its name.
    fresh = copy_with_head(folder, headed.with_name(f".{headed.name}.new"), lambda _: difference)
    fresh.rename(headed)


def check_prm(
    prm: Path,
    policy: Path,
    tag: TagWords | None,
    scratch: Path,
    *,
    max_model_len: int = 0,
    settings: ModelSettings | None = None,
) -> None:
    """Refuse a PRM that does not fit the policy, before anything is started.

    max_model_len: tokens of a prompt and its response at most. settings: as `load_processor` takes
    them.

    Raises:
        BadModel: naming what does not fit: head, token head (where it is read), hidden size,
            positions, tokenizer, image processor, template.
    """
    fitted = fit_prm(prm, scratch / "headed", tag, settings=settings)
    theirs, ours = (load_processor(one, settings=settings) for one in (fitted.folder, policy))
    head = read_head(fitted.folder)
    if read_likelihood(fitted.folder) is not None:
        token_head(fitted.folder, theirs.settings.trust_remote_code)
    config = json.loads((fitted.folder / "config.json").read_text("utf-8"))
    text = config.get("text_config", config)
    hidden, most = text.get("hidden_size"), most_positions(fitted.folder)
    if hidden is not None and head.shape[1] != hidden:
        raise BadModel(f"{prm}: its head has {head.shape[1]} inputs, its model gives {hidden}")
    if most is not None and most < max_model_len:
        raise BadModel(
            f"{prm}: it reads {most} tokens at most (max_position_embeddings), and "
            f"generate.max_model_len = {max_model_len} allows longer responses"
        )
    if theirs.tokenizer.get_vocab() != ours.tokenizer.get_vocab():
        raise BadModel(
            f"{prm}: its tokenizer has other tokens than the policy's ({policy}); a process reward "
            "model scores the policy's own tokens, so it must be of the policy's family"
        )
    for text in _PROBES:
        _compare(prm, _made(theirs, text), _made(ours, text))


def _made(processor: Processor, text: str) -> dict[str, Any]:
    """What a processor makes of a text and a picture with structure in both directions."""
    from PIL import Image

    side = 48
    picture = Image.new("RGB", (side, side))
    picture.putdata([((5 * x) % 256, (3 * y) % 256, (x * y) % 256)
                     for y in range(side) for x in range(side)])  # fmt: skip
    try:
        return processor.inputs(processor.prompt(text, 1), [picture])
    except (BadData, ValueError) as error:
        raise BadModel(f"{processor.folder}: its processor refuses a probe: {error}") from error


def _compare(prm: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    import torch

    if theirs["input_ids"].tolist() != ours["input_ids"].tolist():
        raise BadModel(
            f"{prm}: its tokenizer, image processor or chat template makes other tokens of a "
            "prompt than the policy's; copy the policy's files into the folder if the model was "
            "trained with them"
        )
    for name in sorted(set(ours) | set(theirs)):
        a, b = theirs.get(name), ours.get(name)
        if a is None or b is None or a.shape != b.shape or not torch.allclose(a, b):
            raise BadModel(
                f"{prm}: its image processor makes other {name} of a picture than the policy's; "
                "copy the policy's preprocessor_config.json if the model was trained with it"
            )
