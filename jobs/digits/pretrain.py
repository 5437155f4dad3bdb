"""Pretrain the base model of `digits`: it sees and does its sums, and does not reason.

    python -m jobs.digits.pretrain --out assets/digits-base

Three stages on scans that no question of the task uses: SIGHT teaches each image token the digit
and the place of its cell; READING single digits in words; PARTS keeps that and adds arithmetic in
text alone and explanations of questions whose gold answer stands in the prompt. About 20 minutes on
one thread. Each stage has an optimizer and a random stream of its own, so `--start` and `--stage`
run one on a model that has had those before.

A fourth stage, JUDGING, keeps these and adds the verdict on single statements
(`jobs.digits.judgement`). The shipped base has not had it; about 12 minutes more:

    python -m jobs.digits.pretrain --start assets/digits-base --stage judging --out FOLDER
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch.nn.functional import cross_entropy, layer_norm

from jobs.digits import judgement
from jobs.digits.base_model import build_model, build_processor
from jobs.digits.in_memory import Example, Pixels, PolicyInMemory
from pipeline.tasks.digits import judging, lessons
from pipeline.tasks.digits.augment import augmented_pixels, only_cell
from pipeline.tasks.digits.build import SCANS_SEED
from pipeline.tasks.digits.lessons import Lesson
from pipeline.tasks.digits.scenes import GRID, Scene, draw_scene, scans_by_split

BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.05

CHECKED = 150  # lessons of judging on held-out scans, every 100 steps

SIGHT_STEPS, SIGHT_LR, SIGHT_IMAGES, SIGHT_NOISE = 300, 2e-3, 64, 0.3


@dataclass(frozen=True)
class Stage:
    """Optimizer steps on a mixture of lessons.

    rows: how many of each kind of lesson in a step; text_rows: of lessons in text alone. Each kind
    weighs the same, per token. vision_share: the vision tower's learning rate, of that of the rest.
    empty_cells: share of single readings whose other cells are left empty, from the first step to
    the last; it is the easy start without which a model this small does not find the cells.
    noise, blend: of the pictures (`augment.augmented_pixels`). judged_pictures, judged_texts: how
    many lessons of judging in a step; earlier_pictures, earlier_texts: the layers that are trained
    to give the word that should stand there. added_layers: of the text model, before the stage.
    """

    steps: int
    lr: float
    cosine: bool
    rows: dict[Callable[..., Lesson], int]
    text_rows: int = 0
    vision_share: float = 0.3
    empty_cells: tuple[float, float] = (0.1, 0.1)
    noise: float = 0.0
    blend: float = 0.0
    warmup_steps: int = 100
    judged_pictures: int = 0
    judged_texts: int = 0
    earlier_pictures: tuple[int, ...] = (2, 3)
    earlier_texts: tuple[int, ...] = (3, 4)
    added_layers: int = 0

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then constant or a cosine down to a twentieth."""
        decay = 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.cosine else 1.0
        return self.lr * min(1.0, step / self.warmup_steps) * (0.05 + 0.95 * decay)

    def empty_at(self, step: int) -> float:
        first, last = self.empty_cells
        return first + (last - first) * step / self.steps


STAGES = {
    "reading": Stage(450, 7e-4, False, {lessons.read_one: 64}, empty_cells=(0.85, 0.15), noise=0.3),
    "parts": Stage(
        1500,
        9e-4,
        True,
        {lessons.read_one: 6, lessons.read_several: 6, lessons.explain_with_gold: 28},
        text_rows=40,
        noise=0.5,
        blend=0.3,
    ),
    "judging": Stage(
        900,
        7e-4,
        True,
        {lessons.read_one: 2, lessons.read_several: 2, lessons.explain_with_gold: 5},
        text_rows=6,
        noise=0.5,
        blend=0.3,
        warmup_steps=30,
        judged_pictures=20,
        judged_texts=20,
        added_layers=1,
    ),
}


SHIPPED = ("sight", "reading", "parts")
"""The stages that assets/digits-base has had; the others run where they are named."""


class Pretrainer:
    """One model and its lessons; the same seed gives the same model."""

    def __init__(self, policy: PolicyInMemory, seed: int) -> None:
        self.policy, self._seed = policy, seed
        self.pool = scans_by_split(SCANS_SEED)["base"]
        self.rng = random.Random()

    def sight(self, steps: int, report: Callable[[str], None]) -> None:
        """Align every image token with the words for its digit, its row and its column."""
        self.rng.seed(f"digits-pretrain-{self._seed}-sight")
        model = self.policy.model.model
        parameters = [*model.vision_model.parameters(), *model.connector.parameters()]
        adam = torch.optim.AdamW(parameters, lr=SIGHT_LR, weight_decay=WEIGHT_DECAY)
        for step in range(1, steps + 1):
            for group in adam.param_groups:
                group["lr"] = SIGHT_LR * min(1, step / 30) * (1 - 0.9 * step / steps)
            loss = self._sight_loss(SIGHT_IMAGES)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            adam.step()
            self.policy.model.zero_grad(set_to_none=True)
            if step % 100 == 0:
                report(f"sight {step}: loss {loss.item():.3f}")

    def _sight_loss(self, n_images: int) -> torch.Tensor:
        scenes = [draw_scene(GRID, self.pool, self.rng) for _ in range(n_images)]
        pixels = [augmented_pixels(scene, self.rng, SIGHT_NOISE) for scene in scenes]
        features = self.policy.model.get_image_features(self.policy.pixel_values(pixels))
        tokens = layer_norm(features.pooler_output, features.pooler_output.shape[-1:])
        words = [f" {digit}" for digit in range(10)] + [" top", " bottom", " left", " right"]
        ids = [self.policy.tokenizer(word)["input_ids"][0] for word in words]
        vectors = self.policy.model.get_input_embeddings().weight[torch.tensor(ids)].detach()
        logits = (tokens @ vectors.T * 8).flatten(0, 1)
        digits = torch.tensor([scene.digits for scene in scenes]).flatten()
        rows, columns = (torch.tensor(side * n_images) for side in ([0, 0, 1, 1], [0, 1, 0, 1]))
        return (
            cross_entropy(logits[:, :10], digits)
            + cross_entropy(logits[:, 10:12], rows)
            + cross_entropy(logits[:, 12:], columns)
        )

    def language(self, name: str, stage: Stage, report: Callable[[str], None]) -> None:
        """One stage of lessons."""
        self.rng.seed(f"digits-pretrain-{self._seed}-{name}")
        torch.manual_seed(self._seed)
        judgement.add_layers(self.policy, stage.added_layers)
        adam = torch.optim.AdamW(self._groups(stage), betas=BETAS)
        for step in range(1, stage.steps + 1):
            for group in adam.param_groups:
                group["lr"] = stage.lr_at(step) * group["share"]
            losses = self._gradients(stage, step)
            torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), 1.0)
            adam.step()
            adam.zero_grad(set_to_none=True)
            if step % 50 == 0:
                report(f"{name} {step}: {losses}")
            if stage.judged_pictures and step % 100 == 0:
                held = scans_by_split(SCANS_SEED)["validation"]
                report(f"AUC of verdicts: {judgement.judging_auc(self.policy, held, 0, CHECKED)}")

    def _groups(self, stage: Stage) -> list[dict[str, object]]:
        vision: list[torch.nn.Parameter] = []
        matrices: list[torch.nn.Parameter] = []
        vectors: list[torch.nn.Parameter] = []
        for name, parameter in self.policy.model.named_parameters():
            seeing = "vision" in name or "connector" in name
            (vision if seeing else matrices if parameter.dim() > 1 else vectors).append(parameter)
        return [
            {"params": matrices, "weight_decay": WEIGHT_DECAY, "share": 1.0},
            {"params": vectors, "weight_decay": 0.0, "share": 1.0},
            {"params": vision, "weight_decay": WEIGHT_DECAY, "share": stage.vision_share},
        ]

    def _gradients(self, stage: Stage, step: int) -> dict[str, float]:
        """Backward passes of one step; the loss of each kind of lesson, in nats per token."""
        self.policy.model.train()
        losses = {}
        for make, rows in stage.rows.items():
            made = [make(self.pool, self.rng) for _ in range(rows)]
            empty = stage.empty_at(step) if make is lessons.read_one else 0.0
            examples = [self._example(lesson, empty, stage) for lesson in made]
            losses[make.__name__] = self._backward(examples)
        if stage.text_rows:
            made = [lessons.text_alone(self.rng) for _ in range(stage.text_rows)]
            losses["text_alone"] = self._backward([self._example(m, 0.0, stage) for m in made])
        if stage.judged_pictures:
            judged = [
                judging.judge_picture(self.pool, self.rng) for _ in range(stage.judged_pictures)
            ]
            losses["judge_picture"] = self._judge(judged, stage.earlier_pictures, stage)
        if stage.judged_texts:
            judged = [judging.judge_text(self.rng) for _ in range(stage.judged_texts)]
            losses["judge_text"] = self._judge(judged, stage.earlier_texts, stage)
        return losses

    def _judge(self, made: list[judging.Judging], layers: tuple[int, ...], stage: Stage) -> float:
        shown = [(one, self._pixels(one.scene, stage) if one.scene else None) for one in made]
        loss = judgement.loss_of(judgement.read(self.policy, shown, layers))
        loss.backward()
        return round(loss.item(), 3)

    def _pixels(self, scene: Scene, stage: Stage) -> Pixels:
        return augmented_pixels(scene, self.rng, stage.noise, stage.blend, self.pool)

    def _example(self, lesson: Lesson, empty_cells: float, stage: Stage) -> Example:
        pixels = None
        if lesson.scene is not None:
            pixels = self._pixels(lesson.scene, stage)
            if self.rng.random() < empty_cells:
                pixels = only_cell(pixels, lesson.scene, lesson.asked_cells[0])
        prompt = self.policy.prompt_ids(lesson.prompt, pixels is not None)
        return Example(prompt, self.policy.response_ids(lesson.response), pixels)

    def _backward(self, examples: list[Example]) -> float:
        tokens, total = sum(len(e.response_ids) for e in examples), 0.0
        examples.sort(key=lambda example: example.length)
        for half in (examples[: len(examples) // 2], examples[len(examples) // 2 :]):
            if half:
                loss = self.policy.nll(half) / tokens
                loss.backward()
                total += loss.item()
        return round(total, 3)


def fresh_policy(seed: int) -> PolicyInMemory:
    """A randomly initialised model with its processor."""
    processor = build_processor(seed)
    return PolicyInMemory(build_model(processor, seed), processor)


def main(
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")],
    seed: int = 0,
    start: Annotated[Path | None, typer.Option(help="Go on from this model.")] = None,
    stage: Annotated[
        list[str] | None, typer.Option(help="Run only these stages; judging runs where named.")
    ] = None,
    share: Annotated[float, typer.Option(help="Share of each stage's steps, for a try.")] = 1.0,
) -> None:
    """Pretrain the base model and write it as a complete model folder."""
    names = stage or list(SHIPPED)
    if unknown := set(names) - {"sight", *STAGES}:
        raise typer.BadParameter(
            f"no stage {sorted(unknown)}; there are sight, {', '.join(STAGES)}"
        )
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {line}", flush=True)

    trainer = Pretrainer(PolicyInMemory.load(start) if start else fresh_policy(seed), seed)
    if "sight" in names:
        trainer.sight(max(1, round(SIGHT_STEPS * share)), report)
    for name, chosen in STAGES.items():
        if name in names:
            steps = max(1, round(chosen.steps * share))
            trainer.language(name, replace(chosen, steps=steps), report)
    trainer.policy.save(out)
    report(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
