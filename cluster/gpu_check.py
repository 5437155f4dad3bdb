"""Check a machine with a GPU: `python3 cluster/gpu_check.py`, at most eight minutes on one H100.

Runs on Python 3.11 or 3.12 with PyTorch 2.11 and transformers 5.17 or later, from a checkout and
without an environment of ours. What else is needed (DeepSpeed above all) is taken from a folder of
wheels where it is not installed:

    python3 cluster/gpu_check.py --collect wheels     # where there is an index: fills the folder
    python3 cluster/gpu_check.py --wheels wheels      # on the machine with the GPU

The rest of the arguments are those of `jobs/gpu_check` (--device, --toy, --only, --minutes, --out).
Exit codes: 0 all is well, 1 a part is not, 2 something is missing here.
"""

from __future__ import annotations

import argparse
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ((3, 11), (3, 12))
LEAST = {"torch": (2, 11), "transformers": (5, 17)}
MOST_BYTES = 60_000_000

# What the learner imports besides PyTorch, transformers and what these bring: the name of each
# package, and of the module that it is imported as.
NEEDED = {
    "annotated-types": "annotated_types",
    "deepspeed": "deepspeed",
    "einops": "einops",
    "hjson": "hjson",
    "msgpack": "msgpack",
    "ninja": "ninja",
    "pillow": "PIL",
    "psutil": "psutil",
    "py-cpuinfo": "cpuinfo",
    "pydantic": "pydantic",
    "pydantic-core": "pydantic_core",
    "tenacity": "tenacity",
    "typing-inspection": "typing_inspection",
}
SOURCES = ("deepspeed", "hjson")
"""Packages of which there is no wheel for every Python; of these one is made, of Python only."""


class NotHere(Exception):
    """What this machine lacks, and what to do."""


def check_versions() -> None:
    """Python, PyTorch and transformers, before anything is imported.

    Raises:
        NotHere: naming all that is too old or missing.
    """
    problems = []
    if sys.version_info[:2] not in PYTHONS:
        wanted = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        problems.append(f"Python {sys.version_info[0]}.{sys.version_info[1]}: needs {wanted}")
    for name, least in LEAST.items():
        problem = too_old(name, installed(name), least)
        problems += [problem] if problem else []
    if problems:
        raise NotHere("\n".join(problems))


def installed(name: str) -> str | None:
    """The version of a package; None: it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def too_old(name: str, found: str | None, least: tuple[int, int]) -> str | None:
    """What is wrong with a package's version; None: nothing."""
    wanted = f"needs {least[0]}.{least[1]} or later"
    if found is None:
        return f"{name} is not installed: {wanted}"
    number = re.match(r"(\d+)\.(\d+)", found)
    if number is None or (int(number[1]), int(number[2])) < least:
        return f"{name} {found}: {wanted}"
    return None


def missing() -> list[str]:
    """The packages that are needed and cannot be imported."""
    return [name for name, module in NEEDED.items() if find_spec(module) is None]


def take(wheels: Path, folder: Path) -> None:
    """Install the packages that are missing from a folder of wheels into another folder, behind
    everything that is installed.

    Raises:
        NotHere: the folder lacks some of them.
    """
    lacking = missing()
    if lacking:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        command += ["--find-links", str(wheels), "--target", str(folder), *lacking]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotHere(f"{wheels} does not give {', '.join(lacking)}:\n{done.stderr.strip()}")
        sys.path.append(str(folder))


def pins() -> dict[str, str]:
    """The versions that requirements/gpu.txt has."""
    lines = (ROOT / "requirements" / "gpu.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def collect(wheels: Path) -> int:
    """Fill a folder with wheels of the packages needed, for every Python; its bytes.

    Raises:
        NotHere: pip could not, or the folder became too large.
    """
    wheels.mkdir(parents=True, exist_ok=True)
    chosen = {name: f"{name}=={pins()[name]}" for name in NEEDED}
    for name in SOURCES:
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, chosen.pop(name))
    for major, minor in PYTHONS:
        _pip(
            "download", "--no-deps", "--only-binary=:all:", f"--python-version={major}.{minor}",
            "--dest", wheels, *chosen.values(),
        )  # fmt: skip
    size = sum(path.stat().st_size for path in wheels.glob("*.whl"))
    if size > MOST_BYTES:
        raise NotHere(f"{wheels} holds {size / 1e6:.0f} MB, more than {MOST_BYTES / 1e6:.0f}")
    return size


def _pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    env = {"DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        ["/usr/bin/env", *(f"{key}={value}" for key, value in env.items()), *command], check=False
    )
    if done.returncode:
        raise NotHere(f"pip could not: {' '.join(command[2:])}")


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--collect", type=Path)
    told, rest = parser.parse_known_args()
    if told.collect is not None:
        size = collect(told.collect)
        print(f"{told.collect}: {size / 1e6:.0f} MB of wheels for {', '.join(sorted(NEEDED))}")
        return 0
    check_versions()
    folder = Path(tempfile.mkdtemp(prefix="mstar-gpu-wheels-"))
    try:
        if told.wheels is not None:
            take(told.wheels, folder)
        if lacking := missing():
            raise NotHere(
                f"{', '.join(lacking)}: not installed. Where there is a package index, `python3 "
                "cluster/gpu_check.py --collect wheels` fills a folder; then give --wheels wheels"
            )
        sys.path.insert(0, str(ROOT))
        sys.argv = [str(Path(__file__)), *rest]
        # By its name: what is in cluster/ imports none of the project.
        checks = runpy.run_module("jobs.gpu_check.__main__", run_name="gpu_check")
        return int(checks["main"](rest))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NotHere as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
