r"""A real policy that was pretrained to box its answers (\boxed{…}), through warm-up and a run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from jobs.digits.in_memory import Example, PolicyInMemory
from pipeline.records import Selected
from pipeline.storage.artifacts import read_rows
from pipeline.tasks.digits.augment import augmented_pixels
from pipeline.tasks.digits.build import SCANS_SEED
from pipeline.tasks.digits.lessons import Lesson, explain_with_gold
from pipeline.tasks.digits.scenes import scans_by_split
from tests.support.main_job import LIMIT_S, ROOT, MainJob

STEPS, ROWS = 60, 24


def boxed(response: str) -> str:
    """The same response with its answer in a box."""
    way, heading, answer = response.partition("# Answer\n\n")
    assert heading
    return rf"{way}So it is \boxed{{{answer}}}."


def pretrain(folder: Path) -> None:
    """The base of `digits`, which now explains with a box where it did with our heading."""
    torch.manual_seed(0)
    policy = PolicyInMemory.load(ROOT / "assets" / "digits-base")
    rng, pool = random.Random(0), scans_by_split(SCANS_SEED)["base"]

    def example(lesson: Lesson) -> Example:
        assert lesson.scene is not None
        pixels = augmented_pixels(lesson.scene, rng, 0.5)
        response = policy.response_ids(boxed(lesson.response))
        return Example(policy.prompt_ids(lesson.prompt, True), response, pixels)

    adam = torch.optim.AdamW(policy.model.parameters(), lr=5e-4)
    for _ in range(STEPS):
        rows = [example(explain_with_gold(pool, rng)) for _ in range(ROWS)]
        loss = policy.nll(rows) / sum(len(row.response_ids) for row in rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
    policy.save(folder)


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
def test_a_model_that_boxes_its_answers_gets_through_warm_up(tmp_path: Path) -> None:
    pretrain(tmp_path / "base")
    job = MainJob(
        tmp_path / "out",
        [
            f"policy.path={tmp_path / 'base'}", "prompt.shapes=[boxed]", "evolve.iterations=1",
            "evolve.control=false", "data.test=[test]", "evaluate.samples=0",
            "data.validation_queries=12", "data.test_queries=12",
        ],
    )  # fmt: skip
    job.out.mkdir()
    try:
        job.finish()
    finally:
        job.kill()
    events = job.events
    closed = {e["purpose"]: e for e in events if e["type"] == "sampling_closed"}
    shapes, coverage = closed["warmup"]["shapes"], closed["warmup"]["coverage"]
    assert shapes["boxed"] > shapes.get("ours", 0)
    # In a box may stand what is no answer to the question; it is unparsed.
    assert coverage["correct"] + coverage["wrong"] <= sum(shapes.values()) <= coverage["samples"]
    assert coverage["kept"] > 0
    trained = [
        row
        for event in events
        if event["type"] == "shard_graded" and event["purpose"] == "warmup"
        for row in read_rows(job.store, event["selected"], Selected)
    ]
    assert len(trained) > 0
    assert events[-1]["type"] == "finished"
    assert "boxed" in job.said
