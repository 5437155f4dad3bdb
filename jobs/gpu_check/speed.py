"""How fast the learner trains a 2B vision-language model, beside a bare PyTorch loop on the same
batches; what a checkpoint and a publish take."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from actors.model.collate import IGNORED, Micro
from actors.training.trainer import Trainer
from jobs.gpu_check.learner import save, settings_of, training
from jobs.gpu_check.models import TOY, TWO_BILLION, make_model, make_rows
from jobs.gpu_check.setting import CheckFailed, Setting, timed
from pipeline.plan.gpus import GPUS
from pipeline.training.batches import batches
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings

BATCH, MICRO, WARM, STEPS = 16, 4, 2, 6
RESPONSE, WORDS = 384, 40

CHECKPOINT_BYTES, POLICY_BYTES = 12, 2
"""Of a parameter, in a checkpoint and in a bfloat16 policy."""


def speed(setting: Setting) -> dict[str, Any]:
    """The learner's figures, the bare loop's, and how they compare.

    Raises:
        CheckFailed: there is no room on the disk.
    """
    sizes = TOY if setting.toy else TWO_BILLION
    _check_disk(setting)
    figures: dict[str, Any] = {}
    with timed(figures, "make_model_s", setting):
        policy = make_model(setting.folder / "large", sizes, torch.bfloat16, setting.device)
    _let_go(setting)
    response = 12 if setting.toy else RESPONSE
    rows = make_rows(policy, BATCH * (WARM + STEPS), response, images=(1,), words=WORDS)
    settings = settings_of(setting, 1, batch_size=BATCH, micro_batch=MICRO)
    learner, batches_S = _learner(policy, rows, settings, setting)
    _let_go(setting)
    bare = _bare(policy, batches_S, setting)
    _let_go(setting)
    parameters = learner.pop("parameters")
    tokens = sum(row.length for batch in _order(rows)[WARM:] for row in batch)
    for part in (learner, bare):
        part.update(rates(tokens, part["seconds"], parameters))
    return figures | {
        "learner": learner,
        "bare": bare,
        "learner_of_bare": learner["tokens_s"] / bare["tokens_s"],
        "parameters": parameters,
        "rows": BATCH * STEPS,
        "tokens": tokens,
    }


def _learner(
    policy: Path, rows: Sequence[TrainRow], settings: LearnSettings, setting: Setting
) -> tuple[dict[str, Any], list[list[Micro]]]:
    """The learner's figures, and the tensors of each step's passes."""
    figures: dict[str, Any] = {}
    with setting.peak(figures), training(settings, policy) as trainer:
        figures["parameters"] = sum(one.numel() for one in trainer.model.parameters())
        batches_S = _batches(trainer, rows)
        trainer.train(rows, 0, last=WARM)
        with timed(figures, "seconds", setting):
            trainer.train(rows, 0, first=WARM)
        with timed(figures, "checkpoint_s", setting):
            save(trainer, setting.folder / "checkpoint")
        shutil.rmtree(setting.folder / "checkpoint")
        with timed(figures, "publish_s", setting):
            trainer.publish(setting.folder / "large-published")
    return figures, batches_S


def rates(tokens: int, seconds: float, parameters: int) -> dict[str, float | None]:
    """Tokens a second (prompt and response, image tokens included), and the share of the GPU's
    bfloat16 arithmetic that 6 operations a parameter and token make of it; None on a CPU."""
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    speed_ = tokens / max(seconds, 1e-9)
    return {"tokens_s": speed_, "mfu": speed_ * 6 * parameters / peak if peak else None}


def peak_flops(device: str) -> float | None:
    """Dense bfloat16 operations a second of a GPU by the name that CUDA has for it."""
    for name, gpu in GPUS.items():
        if name.partition("-")[0] in device.replace(" ", ""):
            return gpu.flops
    return None


def _check_disk(setting: Setting) -> None:
    needed = 0 if setting.toy else 2.4e9 * (CHECKPOINT_BYTES + 2 * POLICY_BYTES)
    free = shutil.disk_usage(setting.folder).free
    if free < needed:
        raise CheckFailed(
            f"{setting.folder} has {free / 1e9:.0f} GB free, and a model of 2 G parameters takes "
            f"{needed / 1e9:.0f} GB with its checkpoint: name a folder with room (TMPDIR)"
        )


def _let_go(setting: Setting) -> None:
    gc.collect()
    if setting.on_gpu:
        torch.cuda.empty_cache()


def _order(rows: Sequence[TrainRow]) -> list[list[TrainRow]]:
    """The rows of each step, as the learner takes them."""
    return [[rows[i] for i in batch] for batch in batches([row.length for row in rows], 0, BATCH)]


def _batches(trainer: Trainer, rows: Sequence[TrainRow]) -> list[list[Micro]]:
    """The tensors of each step's passes, as the learner makes them."""
    return [
        [micro for _, micro in trainer.collated(trainer.passes(batch))] for batch in _order(rows)
    ]


def _bare(policy: Path, batches_S: Sequence[Sequence[Micro]], setting: Setting) -> dict[str, Any]:
    """Figures of PyTorch alone: float32 weights, bfloat16 autocast, fused AdamW."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(
        policy, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    figures: dict[str, Any] = {}
    with setting.peak(figures):
        model = model.to(setting.device).train()
        _steps(model, batches_S, setting, figures)
    return figures


def _steps(
    model: Any, batches_S: Sequence[Sequence[Micro]], setting: Setting, figures: dict[str, Any]
) -> None:
    """Every step, those after the first few under `seconds`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step(micros: Sequence[Micro]) -> None:
        tokens = sum(int((micro.targets_B_G != IGNORED).sum()) for micro in micros)
        for one in micros:
            micro = one.to(setting.device)
            with torch.autocast(setting.device, torch.bfloat16):
                made = model(**micro.inputs, use_cache=False, logits_to_keep=micro.keep)
            loss = torch.nn.functional.cross_entropy(
                made.logits[:, -micro.keep :].float().flatten(0, 1),
                micro.targets_B_G.flatten(),
                ignore_index=IGNORED,
                reduction="sum",
            )
            (loss / tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for micros in batches_S[:WARM]:
        step(micros)
    with timed(figures, "seconds", setting):
        for micros in batches_S[WARM:]:
            step(micros)
