"""Building the `digits` data set: queries, pictures and the truth that the checker reads.

Always true: the same seed and sizes give the same bytes; train, validation and test share no scan;
`ood` is drawn from the test scans, on another layout and with families nothing else holds. The
truth is a file of its own beside the data: queries never carry it.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.datasets.dataset import write_dataset
from pipeline.errors import BadData
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.query import Query
from pipeline.tasks.digits.families import FAMILIES, OOD_FAMILIES, Question
from pipeline.tasks.digits.scenes import (
    GRAIN,
    GRID,
    ROW,
    Layout,
    Scene,
    draw_pixels,
    draw_scene,
    scans_by_split,
    to_png,
)

TRUTH_FILE = "truth.json"
QUESTIONS_OF_IMAGE = 2
SCANS_SEED = 0  # fixed: the base model that is shipped was pretrained on this split's base scans

OFTEN = ("difference", "sum_three", "sum_all")
TURNS = {
    "test": tuple(name for rare in ("sum", "parity", "compare") for name in (*OFTEN, rare)),
    "ood": tuple(OOD_FAMILIES),
}
"""Families in the order in which a split draws them, again and again; by default each in its turn.
`test` asks three times as often what a warmed-up policy has the most to gain in."""

SIZES = {"train": 4000, "validation": 250, "test": 1080, "ood": 1000}
"""Questions in each split."""


@dataclass(frozen=True)
class Truth:
    """What the process checker needs to know of one query."""

    question: Question
    scene: Scene


@dataclass(frozen=True)
class Built:
    """A data set in memory: queries, image bytes by sha256, truth by query id."""

    queries: list[Query]
    images: dict[str, bytes]
    truth: dict[str, Truth]


def build(seed: int = 0, sizes: dict[str, int] | None = None) -> Built:
    """Draw every split; families take turns, and `QUESTIONS_OF_IMAGE` questions share a picture."""
    built = Built([], {}, {})
    for split, size in (sizes or SIZES).items():
        turns = TURNS.get(split, tuple(FAMILIES))
        layout = ROW if split == "ood" else GRID
        pool = scans_by_split(SCANS_SEED)["test" if split == "ood" else split]
        rng = random.Random(f"digits-{split}-{seed}")
        _draw_split(built, split, size, (turns, layout, pool), rng)
    return built


def _draw_split(
    built: Built,
    split: str,
    size: int,
    source: tuple[tuple[str, ...], Layout, tuple[int, ...]],
    rng: random.Random,
) -> None:
    turns, layout, pool = source
    makers, made, seen = FAMILIES | OOD_FAMILIES, 0, set()
    while made < size:
        scene = draw_scene(layout, pool, rng)
        png = to_png(draw_pixels(scene, rng))
        image = sha256_hex(png)
        for _ in range(min(QUESTIONS_OF_IMAGE, size - made)):
            question = makers[turns[made % len(turns)]](scene, rng)
            query = _query(f"{split}-{made:05d}", split, question, image)
            if query.content_hash in seen:
                continue
            seen.add(query.content_hash)
            built.images[image] = png
            built.queries.append(query)
            built.truth[query.query_id] = Truth(question, scene)
            made += 1


def _query(query_id: str, split: str, question: Question, image: str) -> Query:
    return Query(
        query_id=query_id,
        images=(image,),
        question=question.text,
        choices=question.choices,
        answer=question.answer,
        answer_type=question.answer_type,
        source=f"digits/{question.family}",
        split=split,
    )


def recipe() -> bytes:
    """What decides the bytes that `build()` gives, to tell an older build from this one."""
    about = {"sizes": SIZES, "turns": TURNS, "families": list(FAMILIES), "scans": SCANS_SEED}
    return canonical_json({**about, "grain": GRAIN, "images": QUESTIONS_OF_IMAGE})


def write(built: Built, folder: Path) -> None:
    """Write the data set and, beside it, the truth."""
    write_dataset(folder, built.queries, built.images)
    truth = {query_id: asdict(truth) for query_id, truth in built.truth.items()}
    (folder / TRUTH_FILE).write_bytes(canonical_json(truth))


def read_truth(folder: Path) -> dict[str, Truth]:
    """The truth by query id.

    Raises:
        BadData: when the folder is not one that `write` made.
    """
    path = folder / TRUTH_FILE
    if not path.is_file():
        raise BadData(f"{path}: not there; only the digits data set has a process checker")
    rows = json.loads(path.read_bytes())
    return {query_id: _truth(row) for query_id, row in rows.items()}


def _truth(row: dict[str, dict[str, object]]) -> Truth:
    question, scene = (
        {name: tuple(value) if isinstance(value, list) else value for name, value in part.items()}
        for part in (row["question"], row["scene"])
    )
    return Truth(Question(**question), Scene(**scene))  # type: ignore[arg-type]
