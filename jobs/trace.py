"""Where one training sample of a run comes from: `mstar-ray trace evolve/1:train-17/3 out/tiny`."""

from __future__ import annotations

from jobs.runtime.cli import command
from jobs.runtime.stores import find_run
from pipeline.audit import trace as origins


def trace(sample: str, place: str, run: str | None = None) -> None:
    """Say how a sample was used, and back to the question and the policy that it came from.

    sample: [PURPOSE:]QUERY/K.

    Raises:
        BadConfig: there is no such run or sample.
    """
    uses = origins.trace(find_run(place, run), sample)
    for number, origin in enumerate(uses):
        print(f"use {number + 1} of {len(uses)} as training data")
        print("\n".join(origins.lines(origin, 1)))


if __name__ == "__main__":
    command("trace")
