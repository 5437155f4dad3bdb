"""How long it takes to import all of `pipeline`: every job and every test pays it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from jobs.benches.record import Options, Result, by_turns

ROOT = Path(__file__).resolve().parents[2]
TIMED = "import time; begun = time.perf_counter(); {}; print(time.perf_counter() - begun)"
# What it is built on, and loads anyway.
BASIS = "import pyarrow.parquet, pydantic, yaml, PIL.Image, numpy, tenacity, fsspec"


def imports(options: Options) -> Result:
    """All modules of `pipeline`, against the libraries that they are built on."""
    files = sorted((ROOT / "pipeline").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    modules = ", ".join(name.removesuffix(".__init__") for name in names)
    return Result(
        name="imports",
        what="importing every module of pipeline, in a fresh process",
        unit="s",
        values=by_turns(
            options.rounds,
            pipeline=lambda _: _seconds(f"import {modules}"),
            libraries=lambda _: _seconds(BASIS),
        ),
        notes={"modules": len(names), "libraries": BASIS},
    )


def _seconds(statement: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(statement)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)
