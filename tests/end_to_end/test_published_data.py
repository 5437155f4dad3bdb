"""Data in MathV360K's form through the real loop, and its policies on a benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipeline.datasets.dataset import Reading, load_dataset
from pipeline.tasks.digits.build import build
from tests.support import published
from tests.support.main_job import LIMIT_S, ROOT, MainJob, assert_nothing_twice

QUESTIONS = 400

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * LIMIT_S)]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MainJob]:
    """The tiny loop on data in MathV360K's form, split as in the paper."""
    folder = tmp_path_factory.mktemp("mathv360k")
    data = published.digits_as_mathv360k(folder, QUESTIONS)
    job = MainJob(folder / "out", [f"data.path={data}", "data.split=mstar", "data.test=[test]"])
    job.out.mkdir()
    try:
        job.finish()
        yield job
    finally:
        job.kill()


def test_the_questions_are_those_that_were_published(job: MainJob) -> None:
    data = job.out.parent / "train_samples_all_tuning.json"
    read = load_dataset(data, Reading(), paper_split=True)
    was = {query.query_id: query for query in build(sizes={"train": QUESTIONS}).queries}
    assert len(read.queries) == QUESTIONS
    for query in read.queries:
        before = was[query.query_id]
        assert query.content_hash == before.content_hash
        assert (query.answer, query.answer_type) == (before.answer, before.answer_type)


def test_the_loop_trains_on_half_of_it(job: MainJob) -> None:
    assert_nothing_twice(job.events)
    found = json.loads((job.out / "tiny" / "summary.json").read_text())
    assert {"base", "warmup", "control", "final"} <= set(found)
    # a tenth of the other half, 24 of them at most
    assert found["final"]["test"]["n"] == 24
    assert all(row["kept"] for row in found["iterations"])


def test_its_policies_on_a_benchmark(job: MainJob) -> None:
    folder = job.out.parent / "ai2d"
    folder.mkdir()
    published.ai2d_tsv(folder)
    command = [
        *(sys.executable, "-m", "jobs", "benchmark", job.out / "tiny", "--on", "ai2d"),
        *("--policy", "base,final", "--from", folder),
    ]
    for turn in range(2):  # the second finds every response in the store
        done = subprocess.run(
            [*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False,
            timeout=LIMIT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        found = {
            policy: json.loads(
                (job.out / "tiny" / "evaluate" / f"benchmark-{policy}-ai2d.json").read_text()
            )
            for policy in ("base", "final")
        }
        assert all(one["n"] == one["asked"] == 8 for one in found.values())
        assert found["base"]["policy"]["version"] != found["final"]["policy"]["version"]
        if turn == 0:
            first = found
    assert found == first
