"""What this costs beside the bare engines, and what else has to be quick:

    mstar-ray bench [--only generation] [--small] [--recipe digits --set a.b=c]

Measures one row after the other (`jobs.benches` names them), prints a table and writes each as
<out>/<name>.json, machine and versions included. `--small` tries the benches out; its figures mean
nothing. Exits with 1 when a bar is not reached (never with `--small`).
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

from jobs.benches import BENCHES
from jobs.benches.record import Options, Result, machine, table
from jobs.runtime.cli import command, did_you_mean, write_json
from jobs.runtime.prepare import versions
from jobs.runtime.recipes import load_recipe
from pipeline.datasets.dataset import check_writable
from pipeline.errors import BadConfig


def bench(
    recipe: str, changes: list[str], only: list[str], *, small: bool, rounds: int, out: Path
) -> bool:
    """Measure, print, save; whether every bar is reached.

    Raises:
        BadConfig: there is no such row.
    """
    for name in only:
        if name not in BENCHES:
            near = did_you_mean(name, BENCHES)
            raise BadConfig(f"--only {name}: no such row{near} There are {', '.join(BENCHES)}")
    check_writable(out)
    work = out / "work"
    config = load_recipe(recipe, [f"run.out={work}", *changes])
    options = Options(config, work, 1 if small else rounds, small, partial(print, flush=True))
    results = [measured(name, options, out) for name in only or BENCHES]
    print(f"\n{table(results)}\n{out}/*.json", flush=True)
    return small or all(result.reached is not False for result in results)


def measured(name: str, options: Options, out: Path) -> Result:
    """One row, measured and saved; what it wrote besides is removed."""
    module, _, function = BENCHES[name].partition(":")
    here = machine()
    options.say(f"{name}: measuring{' (small: the figures mean nothing)' if options.small else ''}")
    try:
        result: Result = getattr(import_module(module), function)(replace(options, row=name))
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)
    found = result.to_dict() | {"machine": here, "versions": versions(), "small": options.small}
    write_json(out / f"{name}.json", found)
    options.say(table([result]))
    return result


if __name__ == "__main__":
    command("bench")
