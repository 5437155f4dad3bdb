"""Write requirements/cpu.txt and gpu.txt: what pip resolves for an extra, every version pinned.

Run it in .venv by `make lock` after the dependencies in pyproject.toml changed; pip downloads much
of what it resolves. Packages that both have are of one version, but for those that the builds of
torch and vllm decide. From cpu.txt the packages whose CUDA builds break it are left out (see
install.py).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from install import CUDA_BUILDS, LOCK, ROOT

GPU_LOCK = LOCK.with_name("gpu.txt")

# What the CUDA builds of torch and vllm want in versions of their own.
OF_BUILD = ("apache-tvm-ffi", "torch", "triton")

HEADER = """\
# The CPU environment, complete: installed with `pip install --no-deps` by requirements/install.py.
# Made by `make lock` (requirements/lock.py) from pyproject.toml; Linux x86-64, Python 3.11.
"""

GPU_HEADER = """\
# The environment of a node with GPUs, complete: cluster/Dockerfile installs it with --no-deps.
# Made by `make lock` (requirements/lock.py) from pyproject.toml; Linux x86-64, Python 3.11, CUDA 13
"""


def resolve(folder: Path, extras: str, constraints: Path | None = None) -> dict[str, str]:
    """Normalised package name to version, of everything that the project with `extras` needs.

    constraints: a file of versions that packages have, where they are needed.
    """
    report = folder / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    # setuptools builds DeepSpeed and this project, so it is pinned like the rest.
    command += ["--quiet", "--report", str(report), f"{ROOT}[{extras}]", "setuptools"]
    env = os.environ | {"DS_BUILD_OPS": "0"}
    if constraints is not None:
        command += ["--constraint", str(constraints)]
        # Wheels of torch's CPU build that pip is told of here would win over PyPI's.
        env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    subprocess.run(command, check=True, env=env)
    return versions(json.loads(report.read_text()))


def versions(report: dict[str, list[dict[str, dict[str, str]]]]) -> dict[str, str]:
    """Normalised package name to version, from pip's installation report."""
    found = {}
    for item in report["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        found[name] = item["metadata"]["version"]
    return found


def shared(cpu: dict[str, str]) -> list[str]:
    """The versions of the CPU environment that the GPU environment has too, as constraints."""
    return [f"{name}=={version}" for name, version in cpu.items() if name not in OF_BUILD]


def write(lock: Path, header: str, found: dict[str, str], left_out: set[str]) -> None:
    """Replace a lock."""
    pins = [f"{name}=={found[name]}" for name in sorted(found) if name not in left_out]
    lock.write_text(header + "\n".join(pins) + "\n")


def main() -> None:
    """Resolve and replace both locks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cpu = resolve(folder, "cpu,dev")
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(shared(cpu)))
        gpu = resolve(folder, "gpu", constraints)
    write(LOCK, HEADER, cpu, {*CUDA_BUILDS, "mstar-ray"})
    write(GPU_LOCK, GPU_HEADER, gpu, {"mstar-ray"})


if __name__ == "__main__":
    main()
