"""Scans, layouts and pictures of the `digits` task.

Owns which scans stand behind which split, and how a scene becomes PNG bytes. Always true: the same
seed gives the same bytes, and no scan serves two splits.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

CANVAS = 32  # pixels a side
CELL = 16  # pixels a side: a scan of 8 x 8 at twice its size
GRAIN = 0.35  # share of full white: the most noise of a picture

# Scans behind each split. The base model sees `base` alone, so that what it cannot read yet is
# there to be learned from answers.
SCANS_OF_SPLIT = {"base": 250, "train": 800, "validation": 250, "test": 497}


@dataclass(frozen=True)
class Layout:
    """Where the cells of a picture stand: `cells` maps a name to its (row, column) in pixels."""

    name: str
    cells: tuple[tuple[str, tuple[int, int]], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.cells)


GRID = Layout(
    "grid",
    (
        ("top left", (0, 0)),
        ("top right", (0, 16)),
        ("bottom left", (16, 0)),
        ("bottom right", (16, 16)),
    ),
)
ROW = Layout("row", (("left", (8, 0)), ("right", (8, 16))))
LAYOUTS = {layout.name: layout for layout in (GRID, ROW)}


@dataclass(frozen=True)
class Scene:
    """One picture: a layout and, for each of its cells in order, the scan and its digit."""

    layout: str
    scans: tuple[int, ...]
    digits: tuple[int, ...]

    def digit(self, cell: str) -> int:
        return self.digits[LAYOUTS[self.layout].names.index(cell)]

    @property
    def cells(self) -> tuple[str, ...]:
        return LAYOUTS[self.layout].names


@lru_cache(maxsize=1)
def scans() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's handwritten digits: pictures (1797, 8, 8) of 0..16 and labels (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.float32), bunch.target.astype(int)


@lru_cache(maxsize=4)
def scans_by_split(seed: int) -> dict[str, tuple[int, ...]]:
    """Disjoint scan indices of each split, shuffled by `seed`."""
    order = list(range(len(scans()[1])))
    random.Random(f"digits-scans-{seed}").shuffle(order)
    parts, start = {}, 0
    for split, size in SCANS_OF_SPLIT.items():
        parts[split] = tuple(order[start : start + size])
        start += size
    return parts


def draw_scene(layout: Layout, pool: tuple[int, ...], rng: random.Random) -> Scene:
    """A scene of distinct scans from `pool`; each cell's digit is uniform over 0..9."""
    labels = scans()[1]
    by_digit = _by_digit(pool)
    picked: list[int] = []
    for _ in layout.cells:
        candidates = by_digit[rng.randrange(10)]
        choice = rng.choice(candidates)
        while choice in picked:
            choice = rng.choice(candidates)
        picked.append(choice)
    return Scene(layout.name, tuple(picked), tuple(int(labels[index]) for index in picked))


@lru_cache(maxsize=8)
def _by_digit(pool: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    labels = scans()[1]
    return tuple(tuple(i for i in pool if labels[i] == digit) for digit in range(10))


def draw_pixels(scene: Scene, rng: random.Random) -> np.ndarray:
    """The picture as uint8 (32, 32): scans at twice their size, moved, dimmed and grainy."""
    pictures, double = scans()[0], np.ones((2, 2), dtype=np.float32)
    drawn = [np.kron(pictures[i] / 16.0, double) * rng.uniform(0.7, 1.0) for i in scene.scans]
    return with_grain(place(scene, drawn, rng), GRAIN, rng)


def with_grain(pixels: np.ndarray, most: float, rng: random.Random) -> np.ndarray:
    """The picture under noise of a standard deviation drawn up to `most`, a share of full white."""
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, 255, pixels.shape)
    grainy = np.round(pixels + rng.uniform(0, most) * noise)
    return np.clip(grainy, 0, 255).astype(np.uint8)


def place(scene: Scene, drawn: list[np.ndarray], rng: random.Random) -> np.ndarray:
    """Pictures of 0..1, (16, 16), in the cells of a scene, each off by at most one pixel."""
    margin = 2
    canvas = np.zeros((CANVAS + 2 * margin, CANVAS + 2 * margin), dtype=np.float32)
    for (_, (top, left)), scan in zip(LAYOUTS[scene.layout].cells, drawn, strict=True):
        row, column = top + margin + rng.randint(-1, 1), left + margin + rng.randint(-1, 1)
        window = canvas[row : row + CELL, column : column + CELL]
        np.maximum(window, scan, out=window)
    return np.round(canvas[margin:-margin, margin:-margin] * 255).astype(np.uint8)


def to_png(pixels: np.ndarray) -> bytes:
    """PNG bytes of an 8-bit grey picture, without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode="L").save(buffer, format="PNG", compress_level=9)
    return buffer.getvalue()
