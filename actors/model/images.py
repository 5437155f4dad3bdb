"""Images by content hash, fetched once and held decoded within a budget.

An image that comes out of the cache has the bytes its name says and decodes completely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.model.recent import Recent
from pipeline.datasets.images import Limits, bytes_problem, decode
from pipeline.errors import BadData, CorruptObject
from pipeline.hashing import sha256_hex
from pipeline.storage.artifacts import get_verified, needed
from pipeline.storage.store import Store

if TYPE_CHECKING:
    from PIL.Image import Image


def image_path(sha: str) -> str:
    """Where the bytes of an image lie in the store: under their own hash."""
    return f"images/{sha}"


@dataclass(frozen=True)
class StoreImages:
    """Image bytes by content hash, out of the store; can be sent to other processes.

    One that is corrupt or gone is `ArtifactLost`, which names its path.
    """

    store: Store

    def __call__(self, sha: str) -> bytes:
        path = image_path(sha)
        with needed(path):
            return get_verified(self.store, path)


class ImageCache:
    """RGB pictures by hash, the most recently used ones within `budget` bytes of pixels.

    `fetch` gives an image file's bytes by hash. Safe to share by threads; an image that two of them
    want at once is fetched once.
    """

    def __init__(
        self,
        fetch: Callable[[str], bytes],
        *,
        budget: int = 256 << 20,
        limits: Limits | None = None,
    ) -> None:
        self._fetch = fetch
        self._limits = limits or Limits(decode_images=True)
        self._pictures: Recent[Image] = Recent(budget, _size)

    @property
    def fetched(self) -> int:
        """How often a file was fetched."""
        return self._pictures.made

    def get(self, sha: str) -> Image:
        """The picture whose file hashes to `sha`.

        Raises:
            BadData: when the file is no image that can be decoded.
            CorruptObject: when the bytes that came do not hash to `sha`.
        """
        return self._pictures.get(sha, lambda: self._load(sha))

    def _load(self, sha: str) -> Image:
        data = self._fetch(sha)
        if sha256_hex(data) != sha:
            raise CorruptObject(
                f"image {sha}: the {len(data)} bytes that came hash to another name"
            )
        problem = bytes_problem(data, self._limits)
        if problem is not None:
            raise BadData(f"image {sha} {problem}")
        return decode(data)


def _size(image: Image) -> int:
    return image.width * image.height * 3
