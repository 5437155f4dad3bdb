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
    shutil.copy(ROOT / "requirements" / "install.py", script)
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
    next(install.VENV.glob("lib/*/site-packages")).joinpath("torchvision").mkdir()
    with pytest.raises(install.SetupError, match="contains torchvision"):
        install.refuse_cuda_builds()
