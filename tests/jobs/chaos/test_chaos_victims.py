"""Who is taken for a victim: processes of the job, at work, and nobody else."""

from __future__ import annotations

import subprocess
import sys

from jobs.chaos.victims import Family, kill
from tests.support.waiting import PATIENCE_S, until

# Titles are in two parts, or whoever starts these would bear them too, in its own command line.
SPIN = "while True: pass"
PARENT = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "{SPIN}", "ray::" + "GeneratorActor"])
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "ray::" + "RayTrainWorker"])
time.sleep(600)
"""


def test_only_the_busy_are_at_work_and_orphans_are_found() -> None:
    job = subprocess.Popen([sys.executable, "-c", PARENT])
    family = Family(job.pid)
    try:
        until(lambda: family.any("rank") is not None)
        busy = family.at_work("generator", PATIENCE_S)
        assert busy is not None
        until(lambda: family.at_work("rank", 0.5) is None)  # once it has started
        assert family.any("grader") is None
        job.kill()
        job.wait()
        left = family.left(0.5)
        assert len(left) == 2
        assert family.left(PATIENCE_S) == []
        assert busy not in {pid for pid, _ in family.alive()}
        assert busy != job.pid
        assert not kill(job.pid)
    finally:
        job.kill()
        job.wait()
        family.left(0.0)


GRADERS = """
import subprocess, sys, time
short = "import time; any(time.sleep(0.1) or sum(range(9)) < 0 for _ in iter(int, 1))"
for code in (short, "import time; time.sleep(600)"):
    subprocess.Popen([sys.executable, "-c", code, "actors.grading." + "worker"])
time.sleep(600)
"""


def test_a_grader_is_at_work_also_where_it_takes_less_than_a_tick() -> None:
    job = subprocess.Popen([sys.executable, "-c", GRADERS])
    family = Family(job.pid)
    try:
        until(lambda: len(family.victims("grader")) == 2)
        (idle,) = [one for one, seen in family.victims("grader").items() if "600" in seen.line]
        until(lambda: family.at_work("grader", PATIENCE_S) not in (None, idle[0]))
    finally:
        job.kill()
        job.wait()
        family.left(0.0)


FORKS = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import os; os.fork(); any(iter(int, 1))", "/ray" + "let "])
time.sleep(600)
"""


def test_whom_a_victim_forked_is_not_taken_for_it() -> None:
    job = subprocess.Popen([sys.executable, "-c", FORKS])
    family = Family(job.pid)
    try:
        until(lambda: len(family.alive()) == 3)
        until(lambda: len(family.victims("raylet")) == 1)
        (raylet,) = family.victims("raylet")
        fork = max(family.alive(), key=lambda one: (one[1], one[0]))
        assert raylet != fork
        assert family.at_work("raylet", PATIENCE_S) == raylet[0]
    finally:
        job.kill()
        job.wait()
        family.left(0.0)


def test_what_this_suite_starts_is_not_of_the_family() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other:
        try:
            job = subprocess.Popen([sys.executable, "-c", "pass"])
            family = Family(job.pid)
            job.wait()
            assert family.left(1.0) == []
            assert other.poll() is None
        finally:
            other.kill()
