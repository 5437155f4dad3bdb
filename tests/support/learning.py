"""Rows to train a tiny policy on, with none, one and two images; and the second rank's script.

`python -m tests.support.learning RANK WORLD FOLDER` runs on one rank everything that test_trainer
compares between numbers of ranks, so that processes are started (and torch imported) only once.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from pipeline.prompts import prompt_hash
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings
from tests.support.models import make_images, make_policy

IMAGES = make_images(12)
SETTINGS = LearnSettings(
    learning_rate=1e-3, batch_size=8, micro_batch=4, weight_decay=0.01, precision="float32"
)
# ZeRO stages and micro-batches whose gradients two ranks compute.
TWO_RANKS = [(1, 1), (1, 8), (2, 3), (3, 1), (3, 8)]
_kept = tempfile.TemporaryDirectory(prefix="mstar-policy-")


@cache
def tiny_policy() -> Path:
    """A policy folder that lives as long as this process."""
    return make_policy(Path(_kept.name) / "policy", 1)


def image_bytes(sha: str) -> bytes:
    """The bytes of one of the test images."""
    return IMAGES[sha]


@contextmanager
def group_of_one(folder: Path) -> Iterator[None]:
    """A process group with this process alone (an engine's, if it has one); another may follow."""
    import torch
    from deepspeed.utils import groups

    from actors.training.trainer import join_group

    before = dict(os.environ)
    shared = torch.distributed.is_initialized()
    if shared:
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    else:
        join_group(0, 1, f"file://{folder}/rendezvous")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        if not shared:
            torch.distributed.destroy_process_group()
        groups._WORLD_GROUP = None  # DeepSpeed would go on with its copy of the group that is gone


def make_rows(policy: Path, count: int, seed: int = 0) -> list[TrainRow]:
    """`count` rows, two for each prompt: text only, one image, two images, and so on."""
    from actors.model.images import ImageCache
    from actors.model.processor import load_processor

    processor, cache = load_processor(policy), ImageCache(image_bytes)
    names, rng = sorted(IMAGES), np.random.default_rng(seed)
    allowed = sorted(set(range(processor.vocabulary)) - set(processor.forbidden))
    rows = []
    for number in range(count):
        query = number // 2
        images = tuple(names[(query + i) % len(names)] for i in range(query % 3))
        prompt = processor.prompt("What is " + "one more than " * (query % 4) + "4?", len(images))
        ids = processor.input_ids(prompt, images, cache.get)
        sampled = [int(rng.choice(allowed)) for _ in range(int(rng.integers(3, 24)))]
        response = (*sampled, processor.end_ids[0])
        rows.append(TrainRow(prompt, images, len(ids), prompt_hash(ids), response))
    return rows


def step_rows(count: int) -> list[TrainRow]:
    """Rows with none, one and two images; a step is worth 1 where it ends in an even token."""
    made = []
    for row in make_rows(tiny_policy(), count):
        last = len(row.token_ids_T) - 1
        ends = tuple(sorted({max(1, last // 2), last}))
        targets = tuple(float(row.token_ids_T[end - 1] % 2 == 0) for end in ends)
        made.append(replace(row, step_ends_S=ends, targets_S=targets))
    return made


def gradients(trainer: Any, rows_B: Sequence[TrainRow]) -> dict[str, np.ndarray]:
    """The gradient of one batch by parameter, before clipping; no step is taken."""
    from deepspeed.utils import safe_get_full_grad

    trainer.engine.train()
    for item, micro in trainer.collated(trainer.passes(rows_B)):
        trainer.backward(item, micro)
    named = sorted(trainer.model.named_parameters())
    return {name: safe_get_full_grad(parameter).float().numpy() for name, parameter in named}


def save(trainer: Any, folder: Path, cursor: dict[str, Any]) -> dict[str, Any]:
    """Write a whole checkpoint from all ranks into one folder; what it says of itself."""
    import torch

    from actors.training.checkpoint_tree import MANIFEST, Checkpoint

    answers: list[Any] = [None] * trainer.world
    part = trainer.checkpoint_part(folder), trainer.facts(cursor)
    torch.distributed.all_gather_object(answers, part)
    made = Checkpoint.of([part for part, _ in answers], answers[0][1])
    if trainer.rank == 0:
        (folder / MANIFEST).write_bytes(made.facts)
    torch.distributed.barrier()
    found: dict[str, Any] = json.loads(made.facts)
    return found


def main(rank: int, world: int, folder: Path) -> None:
    """What test_trainer wants to know of `world` ranks, left in `folder`."""
    from actors.training.trainer import Trainer, join_group

    join_group(rank, world, f"file://{folder}/rendezvous")
    policy, rows = folder / "policy", make_rows(folder / "policy", 18)
    for stage, micro_batch in TWO_RANKS:
        chosen: dict[str, Any] = {"zero_stage": stage, "micro_batch": micro_batch}
        settings = SETTINGS.model_copy(update={"ranks": world, **chosen})
        trainer = Trainer(settings, policy, image_bytes)
        found = gradients(trainer, rows[:8])
        if rank == 0:
            save_file(found, folder / f"gradients-{stage}-{micro_batch}.safetensors")
        trainer.close()

    settings = SETTINGS.model_copy(update={"ranks": world, "zero_stage": 3})
    whole = Trainer(settings, policy, image_bytes)
    for interval in range(3):
        whole.train(rows, interval)
        save(whole, folder / f"whole-{interval}", {"interval": interval})
        if interval == 0:
            whole.publish(folder / "between")
    whole.close()
    reset = Trainer(settings, folder / "between", image_bytes)
    reset.train(rows, 1)
    save(reset, folder / "reset", {"interval": 1})
    reset.close()
    again = Trainer(settings, policy, image_bytes, folder / "whole-0")
    again.train(rows, 1)
    save(again, folder / "parted-1", {"interval": 1})
    again.close()
    parted = Trainer(settings, policy, image_bytes, folder / "parted-1")
    report = parted.train(rows, 2)
    save(parted, folder / "parted-2", {"interval": 2})
    parted.publish(folder / "published")
    told = {"report": vars(report), "logprobs": parted.logprobs(rows[:6], 0.7)}
    (folder / f"told-{rank}.json").write_text(json.dumps(told))
    parted.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
