"""What this costs beside the bare engines, and what else has to be quick:

    python -m jobs.bench [--only generation] [--small] [--config digits --set a.b=c]

Measures one row after the other (`jobs.benches` names them), prints a table and writes each as
<out>/<name>.json, machine and versions included. `--small` tries the benches out; its figures mean
nothing. Exits with 1 when a bar is not reached (never with `--small`).
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from jobs.benches import BENCHES
from jobs.benches.record import ROUNDS, Options, Result, machine, table
from jobs.runtime.cli import ending
from jobs.runtime.prepare import versions
from pipeline.config.load import load_config
from pipeline.datasets.dataset import check_writable
from pipeline.errors import BadConfig

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    only: Annotated[list[str] | None, typer.Option(help="a row's name, as often as wanted")] = None,
    small: Annotated[bool, typer.Option(help="try the benches out: figures mean nothing")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="turns that count")] = ROUNDS,
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("out/bench"),
    config: Annotated[str, typer.Option(help="recipe name or YAML file")] = "digits",
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
) -> None:
    """Measure, print, save."""
    with ending():
        unknown = sorted(set(only or []) - set(BENCHES))
        if unknown:
            raise BadConfig(f"--only {unknown[0]}: there are {', '.join(BENCHES)}")
        check_writable(out)
        work = out / "work"
        loaded = load_config(config, [f"run.out={work}", *(set_ or [])])
        options = Options(loaded, work, 1 if small else rounds, small, partial(print, flush=True))
        results = [measured(name, options, out) for name in only or BENCHES]
        print(f"\n{table(results)}\n{out}/*.json", flush=True)
    missed = any(result.reached is False for result in results)
    raise typer.Exit(1 if missed and not small else 0)


def measured(name: str, options: Options, out: Path) -> Result:
    """One row, measured and saved; what it wrote besides is removed."""
    module, _, function = BENCHES[name].partition(":")
    here = machine()
    options.say(f"{name}: measuring{' (small: the figures mean nothing)' if options.small else ''}")
    try:
        result: Result = getattr(import_module(module), function)(options)
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)
    found = result.to_dict() | {"machine": here, "versions": versions(), "small": options.small}
    (out / f"{name}.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
    options.say(table([result]))
    return result


if __name__ == "__main__":
    app()
