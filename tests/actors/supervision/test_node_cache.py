"""Folders of models on a node: those of living processes stay, those of dead ones go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from actors.supervision.node_cache import hold, sweep

ROOT = Path(__file__).resolve().parents[3]

HOLD = "import sys; from pathlib import Path; from actors.supervision.node_cache import hold; \
folder = hold(Path(sys.argv[1])); (folder / 'model').write_text('7'); print('held', flush=True); \
sys.stdin.read()"


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that works with a folder until it is killed."""
    made = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert made.stdout is not None
    assert made.stdout.readline() == "held\n"
    return made


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_folder_stays_as_long_as_one_that_works_with_it_lives(tmp_path: Path) -> None:
    shared, other = tmp_path / "run-1-policies", tmp_path / "run-2-policies"
    first, second, third = holder(shared), holder(shared), holder(other)
    assert sweep(tmp_path) == []
    end(first)
    end(third)
    assert sweep(tmp_path) == [other]
    assert (shared / "model").is_file()
    assert not other.exists()
    end(second)
    assert sweep(tmp_path) == [shared]
    assert list(tmp_path.iterdir()) == []


def test_whoever_starts_removes_what_the_dead_left(tmp_path: Path) -> None:
    end(holder(tmp_path / "dead"))
    (tmp_path / "not-ours").mkdir()
    mine = hold(tmp_path / "parent" / "mine")
    assert mine.is_dir()
    assert (tmp_path / "dead").is_dir()  # elsewhere
    mine = hold(tmp_path / "mine")
    assert hold(tmp_path / "mine") == mine  # again, as an actor that is started twice
    assert not (tmp_path / "dead").exists()
    assert mine.is_dir()
    assert (tmp_path / "not-ours").is_dir()
    assert sweep(tmp_path) == []


def test_sweeping_what_is_not_there(tmp_path: Path) -> None:
    assert sweep(tmp_path / "nowhere") == []
