"""Which rows make one optimizer step, and how a step is dealt out to ranks.

Everything here is a pure function of the rows' lengths in plan order and of a seed:

* every row is in exactly one batch, and in exactly one micro-batch of that batch;
* batches hold `batch_size` rows, except that the last one takes the remainder;
* all ranks run the same number of micro-batches, so none waits for a collective that never comes;
* another number of ranks or another micro-batch deals the same batch out differently and nothing
  else, so the sum over a batch's tokens is the same computation.

Orders come from sha256, not from a generator, so that they are the same on every Python.

Axes: B rows of a batch, R ranks, M micro-batches of a rank.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.hashing import sha256_hex


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward pass of one rank; both fields index rows of the batch.

    `anchors` are rows with weight zero: they make a pass that has nothing to do (or no image while
    other passes of the batch have some) run the same modules, hence the same collectives.
    """

    rows: tuple[int, ...]
    anchors: tuple[int, ...] = ()


def shuffled(count: int, seed: int, where: str) -> list[int]:
    """0 … count-1 in an order drawn from `seed` and a name for what is shuffled."""
    return sorted(range(count), key=lambda i: sha256_hex(f"{seed}/{where}/{i}".encode()))


def batches(
    lengths: Sequence[int], seed: int, batch_size: int, window: int = 4096
) -> list[list[int]]:
    """Row indices of each optimizer step, in order.

    lengths: tokens of each row (prompt and response), in plan order.
    window: rows that are shuffled and balanced together, rounded up to whole batches; a batch
        never mixes windows, so it is settled as soon as its window is complete.
    """
    if batch_size < 1 or window < 1:
        raise ValueError(f"batch_size {batch_size} and window {window} must be at least 1")
    window = -(-window // batch_size) * batch_size
    found: list[list[int]] = []
    for start in range(0, len(lengths), window):
        part = lengths[start : start + window]
        order = shuffled(len(part), seed, f"window-{start}")
        whole = len(part) - len(part) % batch_size
        dealt = _balanced(order[:whole], part, batch_size)
        rest = [order[whole:]] if whole < len(part) else []
        found += [[start + i for i in batch] for batch in dealt + rest]
    return found


def _balanced(order: Sequence[int], lengths: Sequence[int], size: int) -> list[list[int]]:
    """Batches of exactly `size` rows with about equally many tokens, in shuffled order.

    Longest rows first, each to the batch with the fewest tokens that still has room; rows of equal
    length are taken in shuffled order, so equal lengths give a plain shuffle.
    """
    rank = {row: position for position, row in enumerate(order)}
    room = [(0, index, index) for index in range(len(order) // size)]
    dealt: list[list[int]] = [[] for _ in room]
    for turn, row in enumerate(sorted(order, key=lambda row: (-lengths[row], rank[row]))):
        tokens, _, index = heapq.heappop(room)
        dealt[index].append(row)
        if len(dealt[index]) < size:
            # Among equals the one served longest ago is next.
            heapq.heappush(room, (tokens + lengths[row], len(order) + turn, index))
    for batch in dealt:
        batch.sort(key=rank.__getitem__)
    return sorted(dealt, key=lambda batch: rank[batch[0]])


def micro_batches(
    lengths_B: Sequence[int],
    ranks: int,
    micro_batch: int,
    has_image_B: Sequence[bool] | None = None,
) -> list[list[MicroBatch]]:
    """The micro-batches of each rank, as `plan_R_M`: all ranks have the same number of them.

    Rows of similar length share a pass (little padding), passes of similar length run on all ranks
    at the same time (little waiting), and ranks take turns in getting the longer one.
    """
    if not lengths_B:
        raise ValueError("a batch needs at least one row")
    if ranks < 1 or micro_batch < 1:
        raise ValueError(f"ranks {ranks} and micro_batch {micro_batch} must be at least 1")
    images = has_image_B or [False] * len(lengths_B)
    by_length = sorted(range(len(lengths_B)), key=lambda i: (-lengths_B[i], i))
    passes = -(-len(lengths_B) // (ranks * micro_batch))
    plan_R_M: list[list[MicroBatch]] = [[] for _ in range(ranks)]
    sizes = _sizes(len(lengths_B), passes * ranks)
    start = 0
    for turn in range(passes):
        order = range(ranks) if turn % 2 == 0 else range(ranks - 1, -1, -1)
        for rank, size in zip(order, sizes[turn * ranks : (turn + 1) * ranks], strict=True):
            rows = tuple(by_length[start : start + size])
            plan_R_M[rank].append(MicroBatch(rows, _anchors(rows, by_length, images)))
            start += size
    return plan_R_M


def _sizes(rows: int, passes: int) -> list[int]:
    """Rows of each pass, longest rows first: as equal as can be, the long ones in smaller passes.

    With fewer rows than passes the empty ones come last.
    """
    each, more = divmod(rows, passes)
    if each == 0:
        return [1] * more + [0] * (passes - more)
    return [each] * (passes - more) + [each + 1] * more


def _anchors(
    rows: Sequence[int], by_length: Sequence[int], images: Sequence[bool]
) -> tuple[int, ...]:
    if any(images[row] for row in rows):
        return ()
    if any(images):
        return (next(row for row in reversed(by_length) if images[row]),)
    return () if rows else (by_length[-1],)
