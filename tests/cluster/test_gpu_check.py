"""cluster/gpu_check.py: every part of it at toy size on a CPU, in an interpreter of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "cluster" / "gpu_check.py"

# On two idle cores a minute; on busy ones more.
pytestmark = pytest.mark.timeout(1200)


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script, from elsewhere, with nothing of ours on the path."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True, text=True, env=env, cwd="/", check=False,
    )  # fmt: skip


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_part_of_the_learner_at_toy_size(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    done = run("--device", "cpu", "--toy", "--only", "ZeRO", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    report = json.loads(out.read_text())
    assert report["ok"] is True
    assert report["toy"] is True
    names = {
        f"ZeRO-{stage}: {name}"
        for stage in (1, 3)
        for name in (
            "log-probabilities", "continuity", "publish and reload", "reward head",
            "memory between jobs",
        )
    }  # fmt: skip
    assert set(report["parts"]) == names | {"ZeRO-1: speed"}
    assert report["versions"]["torch"]
    for stage in (1, 3):
        figures = {
            name: report["parts"][f"ZeRO-{stage}: {name}"]["figures"]
            for name in ("log-probabilities", "continuity", "publish and reload", "reward head")
        }
        assert 0 < figures["log-probabilities"]["nats"] < 0.02
        assert figures["continuity"]["steps"] == 4
        assert figures["publish and reload"]["moved_nats"] > 0.04
        assert figures["reward head"]["head"] > 0
    speed = report["parts"]["ZeRO-1: speed"]["figures"]
    assert speed["tokens"] > 1000
    for loop in (speed["learner"], speed["bare"]):
        assert loop["tokens_s"] > 0
        assert loop["mfu"] is None
    assert speed["learner"]["checkpoint_s"] > 0
    assert speed["learner"]["publish_s"] > 0


@pytest.mark.slow
def test_vllm_at_toy_size(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    done = run("--device", "cpu", "--toy", "--only", "vLLM", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    parts = json.loads(out.read_text())["parts"]
    assert set(parts) == {"vLLM: generation", "vLLM: pooling"}
    assert parts["vLLM: generation"]["figures"]["nats_after_reload"] < 0.05
    assert parts["vLLM: pooling"]["figures"]["steps"] > 20


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = run("--out", tmp_path / "report.json", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "PyTorch sees no GPU here" in done.stderr


def test_it_imports_nothing_that_a_bare_machine_lacks() -> None:
    """No Ray, no vLLM, nothing of an environment of ours."""
    probe = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import jobs.gpu_check.__main__\n"
        "heavy = 'ray vllm pyarrow s3fs fsspec_s3 sklearn yaml scipy pandas datasets rich typer'\n"
        "print(sorted(set(heavy.split()) & set(sys.modules)))"
    )
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", probe, str(ROOT)],
        capture_output=True, text=True, env=env, cwd="/", check=True,
    )  # fmt: skip
    # transformers reads what it finds installed; none of these is its own need
    assert set(json.loads(done.stdout.replace("'", '"'))) <= {"yaml", "sklearn", "scipy", "pandas"}


def test_versions_are_compared(script: ModuleType) -> None:
    assert script.too_old("torch", "2.11.0+cu130", (2, 11)) is None
    assert script.too_old("torch", "2.9.1", (2, 11)) == "torch 2.9.1: needs 2.11 or later"
    assert script.too_old("torch", "10.0", (2, 11)) is None
    assert "not installed" in script.too_old("transformers", None, (5, 17))


def test_a_package_that_is_missing_comes_from_the_folder_of_wheels(
    script: ModuleType, tmp_path: Path
) -> None:
    script.NEEDED.clear()
    script.NEEDED["mstar-made-up"] = "mstar_made_up"
    assert script.missing() == ["mstar-made-up"]
    wheels, target = tmp_path / "wheels", tmp_path / "target"
    wheels.mkdir()
    with pytest.raises(script.NotHere, match="does not give mstar-made-up"):
        script.take(wheels, target)
    info = "mstar_made_up-1.0.dist-info"
    with zipfile.ZipFile(wheels / "mstar_made_up-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("mstar_made_up.py", "")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: mstar-made-up\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    try:
        script.take(wheels, target)
        assert script.missing() == []
    finally:
        sys.path.remove(str(target))


def test_what_is_needed_is_pinned(script: ModuleType) -> None:
    assert set(script.NEEDED) <= script.pins().keys()
    assert script.missing() == []
