"""How a learning job is cut into stretches that a learner runs without interruption.

The cuts are where an epoch ends, where a checkpoint is due, and where the job ends. They are a
pure function of the rows' lengths and the job, so a job that is continued from a checkpoint does
exactly the steps that were left, and every step is done once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.training.batches import batches
from pipeline.training.job import LearnJob


@dataclass(frozen=True)
class Segment:
    """Steps `first` to `last` (excluded) of one epoch.

    seed: of that epoch's shuffle. cursor: steps of the job done when it ends. rows, tokens: of the
    segment (tokens of responses). save: a checkpoint is due after it, if the job goes on.
    """

    epoch: int
    seed: int
    first: int
    last: int
    cursor: int
    rows: int
    tokens: int
    save: bool


@dataclass(frozen=True)
class Lengths:
    """The rows of a job in plan order: tokens of prompt and response, and of the response alone."""

    whole: Sequence[int]
    response: Sequence[int]


def segments(
    job: LearnJob,
    lengths: Lengths,
    *,
    batch_size: int,
    window: int,
    every: int | None,
    cursor: int = 0,
) -> Iterator[Segment]:
    """What is left of a job after `cursor` steps; `every`: steps between checkpoints."""
    if not lengths.whole:
        return
    done, epoch = 0, 0
    while (job.epochs is None or epoch < job.epochs) and done != job.max_steps:
        seed = job.epoch_seed(epoch)
        plan_S = batches(lengths.whole, seed, batch_size, window)
        steps = len(plan_S) if job.max_steps is None else min(len(plan_S), job.max_steps - done)
        first = 0
        while first < steps:
            # The next multiple of `every`, counted over the whole job, or the end of the epoch.
            ahead = steps - first if every is None else every - (done + first) % every
            last = min(steps, first + ahead)
            if done + last > cursor:
                start = max(first, cursor - done)
                inside = [row for batch in plan_S[start:last] for row in batch]
                yield Segment(
                    epoch=epoch,
                    seed=seed,
                    first=start,
                    last=last,
                    cursor=done + last,
                    rows=len(inside),
                    tokens=sum(lengths.response[row] for row in inside),
                    save=every is not None and (done + last) % every == 0,
                )
            first = last
        done += steps
        epoch += 1


def steps_of(job: LearnJob, lengths: Lengths, *, batch_size: int, window: int) -> int:
    """Optimizer steps of the whole job."""
    ends = [part.cursor for part in segments(
        job, lengths, batch_size=batch_size, window=window, every=None)]  # fmt: skip
    return ends[-1] if ends else 0


def first_batch(job: LearnJob, lengths: Lengths, *, batch_size: int, window: int) -> list[int]:
    """The rows of the job's first step."""
    return batches(lengths.whole, job.epoch_seed(0), batch_size, window)[0]
