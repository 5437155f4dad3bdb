"""The learner on one device: what it computes, how it goes on, what it leaves behind.

Each check is of one ZeRO stage, with one rank, in bfloat16, on a small model of random weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from actors.model.collate import Collator
from actors.model.processor import sampling_logprobs
from actors.model.value_head import read_head, write_headed
from actors.training.checkpoint_tree import MANIFEST, Checkpoint
from actors.training.trainer import Trainer
from jobs.gpu_check.models import SMALL, TOY, make_model, make_rows, picture, with_steps
from jobs.gpu_check.setting import CheckFailed, Setting, at_most, timed
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings

Stage = Literal[1, 3]
Check = Callable[[Setting, Stage], dict[str, Any]]
STEPS, BATCH = 4, 8

NATS = 0.02
"""Mean deviation of log-probabilities at most: of padded batches from single rows, in bfloat16."""

STATES, LEFT = 16, 0.05
"""Bytes of a parameter while it is trained, at least; the share of them that a job may leave."""


def settings_of(setting: Setting, stage: Stage, **changes: Any) -> LearnSettings:
    """The learner's settings for a check."""
    told: dict[str, Any] = {
        "learning_rate": 1e-3, "batch_size": BATCH, "micro_batch": 4, "precision": "bfloat16",
        "zero_stage": stage, "gpus_per_rank": float(setting.on_gpu),
    }  # fmt: skip
    return LearnSettings(**{**told, **changes})


@contextmanager
def training(
    settings: LearnSettings, policy: Path, checkpoint: Path | None = None
) -> Iterator[Trainer]:
    """A trainer, which is closed afterwards."""
    trainer = Trainer(settings, policy, picture, checkpoint)
    try:
        yield trainer
    finally:
        trainer.close()


def save(trainer: Trainer, folder: Path) -> str:
    """A checkpoint in a folder; the hash of its only part."""
    folder.mkdir(parents=True)
    part = trainer.checkpoint_part(folder)
    (folder / MANIFEST).write_bytes(Checkpoint.of([part], trainer.facts({})).facts)
    return part.sha256


def small_model(setting: Setting) -> Path:
    """The model that the checks train."""
    folder = setting.folder / "small"
    if not folder.exists():
        sizes = TOY if setting.toy else SMALL
        make_model(folder, sizes, torch.bfloat16, setting.device)
    return folder


def small_rows(policy: Path) -> list[TrainRow]:
    """Rows for `STEPS` steps, with none, one and two images."""
    return make_rows(policy, STEPS * BATCH, 24)


def plain_logprobs(
    policy: Path, rows: Sequence[TrainRow], setting: Setting, dtype: torch.dtype = torch.bfloat16
) -> list[list[float]]:
    """Log-probabilities of the rows' responses by transformers alone: row by row, unpadded."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(
        policy, dtype=dtype, local_files_only=True, trust_remote_code=False
    )
    model = model.to(setting.device).eval()
    collator = Collator(policy, picture)
    found = []
    with torch.no_grad():
        for row in rows:
            shown = [collator.pictures.get(sha) for sha in row.images]
            made = dict(collator.processor.inputs(row.prompt, shown))
            prompt = made.pop("input_ids")
            response = torch.tensor([row.token_ids_T])
            made["attention_mask"] = torch.ones(1, prompt.shape[1] + response.shape[1]).long()
            made = {name: tensor.to(setting.device) for name, tensor in made.items()}
            whole = torch.cat([prompt, response], dim=1).to(setting.device)
            logits = model(input_ids=whole, **made).logits[0, prompt.shape[1] - 1 : -1]
            forbidden = collator.processor.forbidden
            tokens = response[0].to(setting.device)
            logprobs = sampling_logprobs(logits, tokens, forbidden=forbidden, temperature=1.0)
            found.append(logprobs.tolist())
    return found


def deviation(ours: Mapping[int, Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    """Mean deviation in nats over all tokens; infinite where they are not of the same tokens."""
    gaps = []
    for index, row in enumerate(theirs):
        if len(ours[index]) != len(row):
            return math.inf
        gaps += [abs(mine - other) for mine, other in zip(ours[index], row, strict=True)]
    return sum(gaps) / len(gaps)


# --- checks ---------------------------------------------------------------------------------------


def logprobs(setting: Setting, stage: Stage) -> dict[str, Any]:
    """The learner's log-probabilities beside plain transformers on the same device."""
    policy = small_model(setting)
    rows = small_rows(policy)[:BATCH]
    with training(settings_of(setting, stage), policy) as trainer:
        ours = trainer.logprobs(rows, 1.0)
    nats = deviation(ours, plain_logprobs(policy, rows, setting))
    at_most("the mean deviation of log-probabilities, in nats,", nats, NATS)
    return {"nats": nats, "tokens": sum(len(row.token_ids_T) for row in rows)}


def continuity(setting: Setting, stage: Stage) -> dict[str, Any]:
    """Four steps at once, and two, a checkpoint, a new learner and two more: the same bits."""
    policy, settings = small_model(setting), settings_of(setting, stage, deterministic=True)
    rows, half = small_rows(policy), STEPS // 2
    at = setting.folder / f"continuity-{stage}"
    with training(settings, policy) as trainer:
        whole = trainer.train(rows, 0)
        wanted = save(trainer, at / "whole")
    with training(settings, policy) as trainer:
        trainer.train(rows, 0, last=half)
        save(trainer, at / "half")
    with training(settings, policy, at / "half") as trainer:
        rest = trainer.train(rows, 0, first=half)
        found = save(trainer, at / "again")
    if found != wanted or rest.nll_S != whole.nll_S[half:]:
        raise CheckFailed(
            f"a learner that went on from its checkpoint parted from one that never stopped: "
            f"losses {rest.nll_S} and {whole.nll_S[half:]}, weights and moments {found[:12]} and "
            f"{wanted[:12]}"
        )
    return {"identical": True, "steps": whole.step, "nats_a_token": _nats(whole)}


def _nats(report: Any) -> list[float]:
    return [nll / tokens for nll, tokens in zip(report.nll_S, report.tokens_S, strict=True)]


def published(setting: Setting, stage: Stage) -> dict[str, Any]:
    """What is published after training, loaded again by transformers: the policy it was."""
    policy, settings = small_model(setting), settings_of(setting, stage)
    rows = small_rows(policy)
    folder = setting.folder / f"published-{stage}"
    figures: dict[str, Any] = {}
    with training(settings, policy) as trainer:
        before = trainer.logprobs(rows[:BATCH], 1.0)
        trainer.train(rows, 0)
        ours = trainer.logprobs(rows[:BATCH], 1.0)
        with timed(figures, "publish_s", setting):
            trainer.publish(folder)
    theirs = plain_logprobs(folder, rows[:BATCH], setting)
    figures["nats"] = deviation(ours, theirs)
    figures["moved_nats"] = deviation(before, theirs)
    at_most("the published policy's deviation from the learner, in nats,", figures["nats"], NATS)
    if figures["moved_nats"] < 2 * NATS:
        raise CheckFailed(f"training moved log-probabilities by {figures['moved_nats']:.3g} nats")
    return figures


def reward_head(setting: Setting, stage: Stage) -> dict[str, Any]:
    """A process reward model: its head is trained on steps, and published with the policy."""
    policy = small_model(setting)
    headed = write_headed(policy, setting.folder / f"headed-{stage}")
    rows = with_steps(small_rows(policy))
    settings = settings_of(setting, stage, objective="steps", learning_rate=1e-2)
    folder = setting.folder / f"reward-{stage}"
    with training(settings, headed) as trainer:
        report = trainer.train(rows, 0)
        trainer.publish(folder)
    losses = _nats(report)
    size = float(read_head(folder).abs().max())
    if not all(map(math.isfinite, losses)) or not size > 0:
        raise CheckFailed(f"losses {losses}, the largest weight of the head {size}")
    # The head begins with zeros, p = 1/2 for every step.
    at_most("the head's first loss less ln 2", abs(losses[0] - math.log(2)), 1e-3)
    return {"losses": losses, "head": size}


def parameter_size(parameter: Any) -> int:
    """Numbers in a parameter, also in one that ZeRO-3 has divided."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def memory(setting: Setting, stage: Stage) -> dict[str, Any]:
    """Three jobs one after the other: what the first leaves allocated does not grow."""
    policy, settings = small_model(setting), settings_of(setting, stage)
    rows = small_rows(policy)
    held, figures, parameters = [], dict[str, Any](), 0
    with setting.peak(figures):
        for _ in range(3):
            with training(settings, policy) as trainer:
                trainer.train(rows, 0, last=1)
                parameters = sum(map(parameter_size, trainer.model.parameters()))
            del trainer
            held.append(setting.held_bytes())
    figures["held_bytes"] = held
    limit = LEFT * STATES * parameters
    at_most("what two more jobs left allocated, in bytes,", held[-1] - held[0], limit)
    return figures


CHECKS: dict[str, Check] = {
    "log-probabilities": logprobs,
    "continuity": continuity,
    "publish and reload": published,
    "reward head": reward_head,
    "memory between jobs": memory,
}
