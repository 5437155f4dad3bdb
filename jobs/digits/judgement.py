"""How the base model of `digits` learns to judge, where a process reward model reads it.

The verdict on a step stands at its last token (the blank line), as "yes" against "no" under the
token head. Only how the two compare is trained: what the model would write next stays as it is, so
the verdict needs no prompt that asks for it.

A model this small finds no comparison of what is said with what is seen by that alone. So hidden
states of earlier layers at the same token are trained, too (through the last norm and the token
head), to give the word that should stand in the statement; what remains for the layers above is to
compare it with the one that does.

Axes: B rows of a batch, S judged steps of all rows, H hidden, V vocabulary.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.nn.utils.rnn import pad_sequence

from jobs.digits.in_memory import Pixels, PolicyInMemory
from pipeline.metrics.auc import auc
from pipeline.responses import STEP_BREAK
from pipeline.tasks.digits.judging import Judging, judge_picture, judge_text
from pipeline.tasks.digits.scenes import draw_pixels

NOT_SUPERVISED = -100  # what cross entropy leaves out
EARLIER_WEIGHT = 0.5  # of each earlier layer's loss, of that of the verdict

Judged = tuple[Judging, Pixels | None]
"""A lesson and its picture, or None for text alone."""


@dataclass(frozen=True)
class Read:
    """What a model makes of judged steps: odds_S are the log-odds of "yes" against "no"."""

    odds_S: torch.Tensor
    earlier_S_V: tuple[torch.Tensor, ...]
    true_S: torch.Tensor
    right_S: torch.Tensor


def read(policy: PolicyInMemory, lessons_B: Sequence[Judged], layers: Sequence[int]) -> Read:
    """One forward pass over lessons that all have a picture, or none of them."""
    rows, where, true, right = [], [], [], []
    for row, (lesson, _) in enumerate(lessons_B):
        ids = list(policy.prompt_ids(lesson.prompt, lesson.scene is not None))
        for step in lesson.steps:
            ids += _ids(policy, step.text + STEP_BREAK)
            where.append((row, len(ids) - 1))
            true.append(int(step.true))
            word = NOT_SUPERVISED if step.right is None else _ids(policy, f"is {step.right}")[-1]
            right.append(word)
        rows.append(torch.tensor(ids))
    mask_B_L = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    ids_B_L = pad_sequence(rows, batch_first=True, padding_value=policy.tokenizer.pad_token_id)
    shown = [pixels for _, pixels in lessons_B if pixels is not None]
    images = {"pixel_values": policy.pixel_values(shown)} if shown else {}
    out = policy.model.model(
        input_ids=ids_B_L,
        attention_mask=mask_B_L,
        use_cache=False,
        output_hidden_states=True,
        **images,
    )
    at = tuple(torch.tensor(where).T)
    head_V_H, norm = policy.model.get_output_embeddings().weight, text_model(policy).norm
    yes, no = (head_V_H[_ids(policy, word)[0]] for word in ("yes", "no"))
    return Read(
        out.last_hidden_state[at] @ (yes - no),
        tuple(norm(out.hidden_states[layer][at]) @ head_V_H.T for layer in layers),
        torch.tensor(true),
        torch.tensor(right),
    )


def loss_of(seen: Read) -> torch.Tensor:
    """The verdict's loss, in nats a step, and the earlier layers' in their weight."""
    loss = binary_cross_entropy_with_logits(seen.odds_S, seen.true_S.float())
    for logits_S_V in seen.earlier_S_V:
        earlier = cross_entropy(logits_S_V, seen.right_S, ignore_index=NOT_SUPERVISED)
        loss = loss + EARLIER_WEIGHT * earlier
    return loss


def _ids(policy: PolicyInMemory, text: str) -> list[int]:
    ids: list[int] = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def text_model(policy: PolicyInMemory) -> Any:
    return policy.model.model.text_model


def add_layers(policy: PolicyInMemory, count: int) -> None:
    """Text layers on top whose output begins at zero: the model says what it said before."""
    text = text_model(policy)
    for _ in range(count):
        layer = copy.deepcopy(text.layers[-1])
        layer.self_attn.layer_idx = len(text.layers)
        for parameter in layer.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            else:
                torch.nn.init.ones_(parameter)
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
        text.layers.append(layer)
    policy.model.config.text_config.num_hidden_layers = len(text.layers)


@torch.no_grad()
def judging_auc(
    policy: PolicyInMemory, pool: tuple[int, ...], seed: int, n: int
) -> dict[str, float]:
    """AUC of verdicts between true and false steps of n lessons on scans of `pool`, as questions
    show them, and of n lessons in text alone."""
    policy.model.eval()
    rng, found = random.Random(f"digits-judging-{seed}"), {}
    for name in ("picture", "text"):
        lessons = [
            judge_picture(pool, rng) if name == "picture" else judge_text(rng) for _ in range(n)
        ]
        shown = [(one, draw_pixels(one.scene, rng) if one.scene else None) for one in lessons]
        seen = read(policy, shown, ())
        by: dict[bool, list[float]] = {True: [], False: []}
        for odds, true in zip(seen.odds_S.tolist(), seen.true_S.tolist(), strict=True):
            by[bool(true)].append(odds)
        found[name] = round(auc(by[True], by[False]), 3)
    policy.model.train()
    return found
