"""Folders of models on a node: those of living processes stay, those of dead ones go."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.supervision.node_cache import SOCKET_BYTES, caches, hold, job_folder, sweep
from pipeline.errors import UserError

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


JOB = """
import sys
from pathlib import Path
from actors.supervision.node_cache import job_folder
with job_folder(Path(sys.argv[1])) as folder:
    (folder / "vllm_dist_0").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def job(temporary: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Another job at work in a folder of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", JOB, str(temporary)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield Path(process.stdout.readline().strip()), process
        process.kill()


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short path, as Ray's sockets need."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_a_jobs_folder_goes_with_it_and_a_killed_ones_with_the_next(temporary: Path) -> None:
    with job(temporary) as (living, _), job(temporary) as (dead, process):
        process.kill()
        process.wait()
        with job_folder(temporary) as mine:
            assert mine.parent == living.parent == dead.parent
            assert mine.parent.stat().st_mode & 0o777 == 0o700
            assert not dead.exists()
            assert (living / "vllm_dist_0").exists()
            (mine / "ray").mkdir()
        assert not mine.exists()
        assert (living / "vllm_dist_0").exists()


ENGINE = """
import sys, tempfile
from pathlib import Path
from actors.supervision.node_cache import take_temporary_folder
take_temporary_folder()
(Path(tempfile.gettempdir()) / "vllm_dist_0").touch()
print(tempfile.gettempdir(), flush=True)
sys.stdin.read()
"""


def engine(temporary: Path) -> tuple[Path, subprocess.Popen[str]]:
    """An engine's process on a node whose temporary files go there."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENGINE],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return Path(process.stdout.readline().strip()), process


def test_what_a_killed_engine_left_on_a_node_goes_with_the_next_that_starts(
    temporary: Path,
) -> None:
    (dead, killed), (living, working) = engine(temporary), engine(temporary)
    assert dead.parent == living.parent == temporary / f"mstar-{os.getuid()}"
    (temporary / "vllm_dist_of_another").touch()
    end(killed)
    assert (dead / "vllm_dist_0").exists()
    mine, last = engine(temporary)
    assert not dead.exists()
    assert (living / "vllm_dist_0").exists()
    assert (temporary / "vllm_dist_of_another").exists()
    end(working)
    end(last)
    with job_folder(temporary) as folder:  # a job's own Ray has one already
        assert not mine.exists()
        inside, working = engine(folder)
        assert inside == folder
        end(working)


def test_a_place_that_is_not_this_users_is_refused(temporary: Path) -> None:
    (temporary / "elsewhere").mkdir()
    (temporary / f"mstar-{os.getuid()}").symlink_to(temporary / "elsewhere")
    with pytest.raises(UserError, match="is not a folder of this user"), job_folder(temporary):
        pass
    assert list((temporary / "elsewhere").iterdir()) == []


def test_a_path_too_long_for_sockets_is_not_taken(temporary: Path) -> None:
    with job_folder(temporary / ("x" * 40)) as folder:
        assert folder.parent.parent == Path("/tmp")
        assert len(os.fsencode(folder)) <= SOCKET_BYTES


def test_code_of_models_is_copied_into_a_folder_of_the_process(tmp_path: Path) -> None:
    """And stays as long as the process lives; nothing is set where no code may be run."""
    program = (
        "import os, sys; from actors.supervision.node_cache import take_code_folder as take\n"
        "take(sys.argv[1], False); assert 'HF_MODULES_CACHE' not in os.environ\n"
        "take(sys.argv[1], True); print(os.environ['HF_MODULES_CACHE'])\n"
    )
    environment = {name: v for name, v in os.environ.items() if name != "HF_MODULES_CACHE"}
    folders = {
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=ROOT,
            env=environment, capture_output=True, text=True, check=True,
        ).stdout.strip()
        for _ in range(2)
    }  # fmt: skip
    assert len(folders) == 2
    assert {Path(folder).parent for folder in folders} == {caches(tmp_path) / "code"}
