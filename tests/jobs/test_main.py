"""The command line as a newcomer meets it: help that is there at once, mistakes that are named."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from jobs.runtime.options import EXIT_CODES
from jobs.runtime.recipes import load_recipe
from pipeline.config.fields import fields, to_dict
from pipeline.config.load import config_from_dict
from tests.support.jobs import mstar

ROOT = Path(__file__).resolve().parents[2]

COMMANDS = sorted(
    path.stem for path in (ROOT / "jobs/commands").glob("*.py") if path.stem != "__init__"
)

HEAVY = (
    "ray", "torch", "vllm", "transformers", "deepspeed", "sympy", "s3fs", "sklearn", "scipy",
    "pyarrow", "numpy", "PIL", "matplotlib",
)  # fmt: skip

# Asks for help again and again in one interpreter, then names what that has loaded.
PROBE = """
import sys
from jobs.main import app
for command in sys.argv[2:]:
    try:
        app([*command.split(), "--help"], prog_name="mstar-ray")
    except SystemExit as ended:
        assert ended.code == 0, command
sys.exit(" ".join(set(sys.argv[1].split()) & set(sys.modules)))
"""


def test_help_imports_nothing_heavy() -> None:
    commands = ["", *COMMANDS, "report loop", "report prm", "export policy", "export selected",
                "data inspect", "data convert"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROBE, " ".join(HEAVY), *commands],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr.strip() == ""
    assert done.stdout.count("Usage: mstar-ray") == len(commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_a_manual(command: str) -> None:
    shown = " ".join(mstar(command, "--help").output.split())
    assert EXIT_CODES in shown
    assert "Example: mstar-ray " in shown or command in ("report", "export", "data")


def test_the_script_is_the_command_line_and_every_command_is_a_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"mstar-ray": "jobs.main:main"}
    shown = mstar("--help").output
    assert all(re.search(rf"^│ {command} ", shown, re.M) for command in COMMANDS)
    for command in COMMANDS:
        source = ROOT / "jobs" / f"{command}.py"
        source = source if source.is_file() else ROOT / "jobs" / command / "__main__.py"
        assert f'command("{command}")' in source.read_text()


@pytest.mark.parametrize("module", ["jobs.gc", "jobs.status", "jobs"])
def test_a_module_is_its_command(module: str) -> None:
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    name = module.removeprefix("jobs").strip(".")
    assert f"Usage: mstar-ray {name}".rstrip() in done.stdout


@pytest.mark.parametrize("module", ["jobs.runtime.console", "jobs.runtime.cli"])
def test_a_module_that_is_no_command_says_so(module: str) -> None:
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{module} is no command: mstar-ray --help lists those there are" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["staus"], "Did you mean 'status'?"),
        (["run", "--recip", "tiny"], "--recipe"),
        (["run", "--recipe", "tinny"], "did you mean 'tiny'?"),
        (["config", "--set", "run.sed=1"], "--set run.sed=1: unknown key 'run.sed'; did you mean"),
        (["bench", "--only", "generatoin"], "did you mean 'generation'?"),
        (["audit"], "name one store"),
        (["audit", "a", "--store", "b"], "name one store"),
    ],
)  # fmt: skip
def test_an_unknown_word_names_the_nearest(arguments: list[str], words: str) -> None:
    done = mstar(*arguments)
    assert done.exit_code == 2
    assert words in " ".join(done.output.replace("│", " ").split())


def test_config_is_the_manual_and_what_a_recipe_comes_to(tmp_path: Path) -> None:
    manual = mstar("config").output
    assert all(f"\n  {key.partition('.')[2]} = " in manual for key, _ in fields())
    assert "K: samples of each query per iteration." in manual
    shown = mstar("config", "--recipe", "tiny", "--set", "generate.samples=5", "--run", "7").output
    changes = ["generate.samples=5", "run.name='7'"]
    assert yaml.safe_load(shown) == to_dict(load_recipe("tiny", changes))
    assert config_from_dict(yaml.safe_load(shown)).run.name == "7"
