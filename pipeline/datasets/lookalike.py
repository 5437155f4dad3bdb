"""Which pictures show the same although their files differ: by their pixels, or as good as.

A file that was saved anew (another format, quality or size) has other bytes and shows the same. A
`Look` is what is compared: the pixels' hash, and a grey version of 32 by 32 cells, each the mean of
what it covers, which saving anew hardly changes and another line in a drawing does. Pictures of one
grey throughout are compared by their pixels only.

Axes: N pictures, C = 1024 cells, R = 16 regions of 64 cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.datasets.dataset import Dataset
from pipeline.hashing import sha256_hex

SIDE = 32
"""Cells in a row, and rows."""
MOST_LEVELS = 12
"""Levels of grey of 256 that no cell of two equal pictures differs by more than."""
MEAN_LEVELS = 1.5
"""Levels that the cells of two equal pictures differ by on average, at most."""
MOST_STRETCH = 0.03
"""Share by which their ratios of width and height may differ: a size is rounded to pixels."""
FLAT = 2.0
"""Standard deviation of the cells up to which a picture is of one grey."""

Cells = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Look:
    """What a picture shows: sha256 of size and RGB pixels, width by height, grey of its cells."""

    pixels: str
    ratio: float
    cells: bytes

    @cached_property
    def cells_C(self) -> Cells:
        """Levels of grey, row by row."""
        return np.frombuffer(self.cells, np.uint8).astype(np.int16)

    @property
    def telling(self) -> bool:
        """Whether the cells can tell it from others."""
        return float(self.cells_C.std()) > FLAT


def look_of(image: Image.Image) -> Look:
    """The look of a picture in RGB."""
    pixels = sha256_hex(repr(image.size).encode() + image.tobytes())
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return Look(pixels, image.width / image.height, small.tobytes())


def looks_of(dataset: Dataset, threads: int = 4) -> dict[str, Look]:
    """The look of each image of a data set, by its hash."""
    shas = list(dataset.image_paths)
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda sha: look_of(dataset.open_image(sha)), shas)
        return dict(zip(shas, found, strict=True))


class _Shelf:
    """Pictures in the order of their mean grey, so that only a few have to be compared with one."""

    def __init__(self, looks: Mapping[str, Look]) -> None:
        self.by_pixels = {look.pixels: sha for sha, look in reversed(list(looks.items()))}
        order = sorted(
            (float(look.cells_C.mean()), sha) for sha, look in looks.items() if look.telling
        )
        self.shas_N = [sha for _, sha in order]
        self.means_N = np.array([mean for mean, _ in order])
        kept = [looks[sha] for sha in self.shas_N]
        self.ratios_N = np.array([look.ratio for look in kept])
        self.cells_N_C = np.array([look.cells_C for look in kept], np.int16).reshape(-1, SIDE**2)
        self.regions_N_R = _regions(self.cells_N_C)

    def equal(self, look: Look) -> list[str]:
        """Those that show what this picture shows."""
        found = [self.by_pixels[look.pixels]] if look.pixels in self.by_pixels else []
        if not look.telling or not self.shas_N:
            return found
        mean = float(look.cells_C.mean())
        low, high = np.searchsorted(self.means_N, [mean - MEAN_LEVELS, mean + MEAN_LEVELS])
        near = np.arange(low, high)
        near = near[np.abs(self.ratios_N[near] / look.ratio - 1) <= MOST_STRETCH]
        region_R = _regions(look.cells_C[None])[0]
        near = near[(np.abs(self.regions_N_R[near] - region_R) <= MOST_LEVELS).all(axis=1)]
        differ = np.abs(self.cells_N_C[near] - look.cells_C)
        same = (differ.max(axis=1, initial=0) <= MOST_LEVELS) & (differ.mean(axis=1) <= MEAN_LEVELS)
        return found + [sha for n in near[same] if (sha := self.shas_N[n]) not in found]


def _regions(cells_N_C: Cells) -> npt.NDArray[np.float64]:
    """The means of 4 by 4 regions."""
    parts = cells_N_C.reshape(-1, 4, SIDE // 4, 4, SIDE // 4)
    return np.asarray(parts.mean(axis=(2, 4)).reshape(-1, 16), np.float64)


def groups_inside(looks: Mapping[str, Look]) -> list[list[str]]:
    """Images of one data set that show the same, groups of two and more, by their first image."""
    shelf, seen = _Shelf(looks), set[str]()
    groups = []
    for sha, look in looks.items():
        if sha in seen:
            continue
        group = [sha, *(one for one in shelf.equal(look) if one != sha and one not in seen)]
        seen.update(group)
        if len(group) > 1:
            groups.append(group)
    return groups


def pairs_between(mine: Mapping[str, Look], theirs: Mapping[str, Look]) -> dict[str, str]:
    """For each of my images that shows what one of theirs shows, that one."""
    shelf = _Shelf(theirs)
    found = {sha: shelf.equal(look) for sha, look in mine.items()}
    return {sha: equal[0] for sha, equal in found.items() if equal}


def queries_showing(dataset: Dataset, shas: Iterable[str]) -> Sequence[str]:
    """Ids of the queries that show one of these images."""
    wanted = frozenset(shas)
    return [query.query_id for query in dataset.queries if not wanted.isdisjoint(query.images)]
