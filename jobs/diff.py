"""The first step at which two runs part, and in what they differ: `mstar-ray diff out/a out/b`."""

from __future__ import annotations

from jobs.runtime.cli import command
from jobs.runtime.stores import find_run
from pipeline.audit.diff import first_difference, settings_changed

Named = tuple[str, str | None]
"""A run: the folder of one, or a store and the name of a run in it."""


def diff(a: Named, b: Named) -> bool:
    """Say where two runs part; whether they do not.

    Raises:
        BadConfig: there is no such run.
    """
    runs = [find_run(*named) for named in (a, b)]
    changed = settings_changed(*(run.wires[0] for run in runs))
    for change in changed:
        print(f"settings: {change}")
    difference = first_difference(*(run.wires for run in runs))
    print(difference or f"{runs[0].name} and {runs[1].name} did the same")
    return difference is None and not changed


if __name__ == "__main__":
    command("diff")
