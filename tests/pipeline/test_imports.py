"""`pipeline/` stays light, and what the code imports is what pyproject.toml declares."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pipeline

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = ("pipeline", "actors", "jobs", "cluster")
HEAVY = ("ray", "torch", "vllm", "transformers", "deepspeed", "sympy", "s3fs", "sklearn")

# Imports one module after the other and names the first one after which a heavy module is there.
PROBE = """
import importlib, sys
heavy = set(sys.argv[1].split(","))
for name in sys.argv[2].split(","):
    importlib.import_module(name)
    if loaded := heavy & set(sys.modules):
        sys.exit(f"importing {name} loads {', '.join(sorted(loaded))}")
"""


def probe(modules: list[str], heavy: tuple[str, ...], folder: Path) -> str:
    """What the probe complains about, in a fresh interpreter that sees `folder`."""
    command = [sys.executable, "-c", PROBE, ",".join(heavy), ",".join(modules)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


def test_importing_pipeline_loads_nothing_heavy() -> None:
    found = [module.name for module in pkgutil.walk_packages(pipeline.__path__, "pipeline.")]
    assert "pipeline.metrics.intervals" in found
    assert probe(["pipeline", *found], HEAVY, ROOT) == ""


def test_the_probe_sees_a_leak_however_deep(tmp_path: Path) -> None:
    (tmp_path / "light.py").write_text("import json\n")
    (tmp_path / "leaky.py").write_text("import deeper\n")
    (tmp_path / "deeper.py").write_text("from weighty.part import thing\n")
    (tmp_path / "weighty").mkdir()
    (tmp_path / "weighty" / "__init__.py").touch()
    (tmp_path / "weighty" / "part.py").write_text("thing = 1\n")
    assert probe(["light"], ("weighty",), tmp_path) == ""
    assert probe(["light", "leaky"], ("weighty",), tmp_path) == "importing leaky loads weighty"


def imported_modules(folder: Path) -> Iterator[tuple[Path, str]]:
    """The top-level name of everything that a file below `folder` imports, lazily or not."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            else:
                continue
            for name in names:
                yield path, name.split(".")[0]


def normalised(requirement: str) -> str:
    """The package that a requirement line names, as package indexes compare names."""
    name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_the_packages_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["cpu"], *extras["dev"]]
    declared = {normalised(line) for line in lines}
    distributions = packages_distributions()
    undeclared = {
        f"{path.relative_to(ROOT)}: {module}"
        for package in PACKAGES
        for path, module in imported_modules(ROOT / package)
        if module not in sys.stdlib_module_names and module not in PACKAGES
        if not declared & {normalised(name) for name in distributions.get(module, [])}
    }
    assert not undeclared, f"not among the dependencies in pyproject.toml: {sorted(undeclared)}"


def test_the_lock_holds_what_is_declared_and_no_build_that_breaks_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lock = (ROOT / "requirements" / "cpu.txt").read_text().splitlines()
    pins = [line for line in lock if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[^ =]+", pin) for pin in pins)
    locked = {pin.split("==")[0] for pin in pins}
    declared = {normalised(line) for line in [*project["dependencies"], *extras["cpu"]]}
    assert declared | {normalised(line) for line in extras["dev"]} <= locked
    assert not locked & {"torchaudio", "torchcodec"}
    assert "torch==2.13.0+cpu" in pins
