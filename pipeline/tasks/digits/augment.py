"""Distorted pictures for pretraining: few scans have to stand for many hands.

The pictures of questions are drawn by `scenes.draw_pixels`; only lessons use these.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipeline.tasks.digits.scenes import CANVAS, CELL, LAYOUTS, Scene, place, scans, with_grain


def augmented_pixels(
    scene: Scene,
    rng: random.Random,
    noise: float = 0.0,
    blend: float = 0.0,
    others: Sequence[int] = (),
) -> np.ndarray:
    """Like `scenes.draw_pixels`, each scan also turned, scaled and slanted a little.

    `noise` is the largest standard deviation of the grain laid over the picture, as a share of full
    white. `blend` is the share of cells whose scan is mixed with one of `others`: how often a digit
    is the one to be read is how much of it is seen, so that a model which has met scans that it
    cannot be sure of is less sure of those it misreads.
    """
    drawn = []
    for index in scene.scans:
        scan = _distorted(index, rng)
        if blend and rng.random() < blend:
            # Density 2 (1 - w): the digit to be read is the one seen with weight v in a share v
            # of all blends that hold it with weight v.
            other = rng.triangular(0.0, 1.0, 0.0)
            scan = (1 - other) * scan + other * _distorted(rng.choice(others), rng)
        drawn.append(scan)
    return with_grain(place(scene, drawn, rng), noise, rng)


def _distorted(index: int, rng: random.Random) -> np.ndarray:
    """One scan as float32 (16, 16) of 0..1."""
    scan = np.kron(scans()[0][index] / 16.0, np.ones((2, 2), dtype=np.float32))
    angle = math.radians(rng.uniform(-12, 12))
    scale, slant = rng.uniform(0.88, 1.12), rng.uniform(-0.15, 0.15)
    cos, sin, middle = math.cos(angle) / scale, math.sin(angle) / scale, (CELL - 1) / 2
    a, b, d, e = cos, sin + slant, -sin, cos
    matrix = (a, b, middle - (a + b) * middle, d, e, middle - (d + e) * middle)
    picture = Image.fromarray((scan * 255).astype(np.uint8))
    turned = picture.transform(
        (CELL, CELL), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR
    )
    return np.asarray(turned, dtype=np.float32) / 255 * rng.uniform(0.6, 1.0)


def only_cell(pixels: np.ndarray, scene: Scene, cell: str) -> np.ndarray:
    """The same picture with every cell but one left empty."""
    top, left = dict(LAYOUTS[scene.layout].cells)[cell]
    kept = np.zeros((CANVAS, CANVAS), dtype=pixels.dtype)
    window = (slice(top, top + CELL), slice(left, left + CELL))
    kept[window] = pixels[window]
    return kept
