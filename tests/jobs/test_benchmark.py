"""`mstar-ray benchmark` over scripted roles: what is asked, judged, summed up and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.benchmark import benchmark, official_text, strict_text
from jobs.run import evolve
from jobs.runtime.benchmark_data import load, named, place_of
from jobs.runtime.check_queries import check_queries
from jobs.runtime.prepare import out_folder
from pipeline.config.fields import to_dict
from pipeline.config.load import config_from_dict
from pipeline.config.schema import Config
from pipeline.errors import BadConfig
from pipeline.grading.benchmarks.known import BENCHMARKS, PAPER
from pipeline.run.spec import RunSpec
from pipeline.simulation.workers import scripted_workers
from pipeline.stages.workers import Workers
from pipeline.storage.store import Store
from tests.support import published
from tests.support.jobs import SCRIPTED, job_config, mstar
from tests.support.published_files import embedded, write_parquet

ROOT = Path(__file__).resolve().parents[2]

Write = Callable[[Path], Path]

DATA: dict[str, Write] = {
    "mathvista": published.mathvista_parquet,
    "m3cot": published.m3cot,
    "mmstar-r": published.mmstar_tsv,
    "mmbench-r": published.mmbench,
    "ai2d": published.ai2d,
    "mathverse": published.mathverse,
    "mmmu": published.mmmu,
}
ALL = ",".join(DATA)


def places(folder: Path) -> dict[str, Path]:
    """Every benchmark's fixture, in a folder of its own."""
    found = {}
    for name, write in DATA.items():
        (folder / name).mkdir(parents=True)
        found[name] = write(folder / name)
    return found


class Noting:
    """Scripted roles that note what the fleet is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @contextmanager
    def __call__(self, program: RunSpec, store: Store, *_: Any) -> Iterator[Workers]:
        scripted = scripted_workers(store, program)
        yield scripted.workers
        self.asked += scripted.fleet.generated


def with_real_processor(program: RunSpec, *rest: Any, **options: Any) -> None:
    """What is asked is tried with the processor of `digits`, whose model nothing is asked of."""
    plain = to_dict(program.config)
    plain["policy"]["path"] = str(ROOT / "assets" / "digits-base")
    plain["generate"] |= {"max_model_len": 2048, "max_new_tokens": 64}
    check_queries(replace(program, config=config_from_dict(plain)), *rest, **options)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = job_config(tmp_path_factory.mktemp("run"))
    evolve(config, parts=SCRIPTED)
    return config


def test_a_run_s_policies_on_every_benchmark(config: Config, tmp_path: Path) -> None:
    data, noting = places(tmp_path), Noting()
    parts = replace(SCRIPTED, workers=noting, check_queries=with_real_processor)
    found = benchmark(config, "base,warmup,final", ALL, tmp_path, data, parts=parts)
    assert set(found) == {"base", "warmup", "final"}
    asked = {name: one["n"] for name, one in found["base"].items()}
    # mmstar: 4 of 6 categories; mmbench: three of five questions that can be asked, circular
    assert asked == {"mathvista": 8, "m3cot": 8, "mmstar-r": 8, "mmbench-r": 3, "ai2d": 8,
                     "mathverse": 10, "mmmu": 8}  # fmt: skip
    assert found["base"]["mmbench-r"]["asked"] == 9
    assert found["base"]["m3cot"]["left_out"] == 1
    for name, one in found["final"].items():
        assert one["rule"] == BENCHMARKS[name].rule
        assert set(one["by"]) == set(BENCHMARKS[name].by)
        for which in ("strict", "official"):
            low, high = one[which]["ci95"]
            assert 0 <= low <= one[which]["value"] <= high <= 1
    assert "mean_over" in found["base"]["mmstar-r"]["official"]
    assert [name for name in DATA if "reasoning" in found["base"][name]] == ["mathvista"]
    # a policy that knows more answers is better by both figures
    strict = {p: sum(one[name]["strict"]["value"] for name in DATA) for p, one in found.items()}
    assert strict["warmup"] > strict["base"]
    folder = out_folder(config) / "evaluate"
    plain = json.loads((folder / "benchmark-final-mathvista.json").read_text())
    assert plain == found["final"]["mathvista"]
    table = (folder / "benchmark.md").read_text()
    assert "average" in table
    overview = table.partition("MathVista, with 95 % intervals")[0].splitlines()
    assert [line.split()[0] for line in overview[-4:-1]] == ["base", "warmup", "final"]
    assert "logic_reasoning" in table.partition("MMBench-R, with 95 % intervals")[2]

    # Resumed, nothing is sampled again, and the figures are the same.
    again = Noting()
    same = benchmark(
        config, "base,warmup,final", ALL, tmp_path, data,
        parts=replace(SCRIPTED, workers=again),
    )  # fmt: skip
    assert noting.asked
    assert again.asked == []
    assert same == found


def test_one_benchmark_has_no_average(config: Config, tmp_path: Path) -> None:
    data = places(tmp_path)
    benchmark(config, "final", "ai2d", tmp_path, data, parts=SCRIPTED)
    table = (out_folder(config) / "evaluate" / "benchmark.md").read_text()
    assert table.splitlines()[-1].split()[-1] == "-"
    assert len(PAPER) == 5


def test_data_are_found_by_name_in_a_folder(tmp_path: Path) -> None:
    published.mmstar_tsv(tmp_path)
    published.mmbench(tmp_path)
    published.ai2d_tsv(tmp_path)
    for name, file in (("mmstar-r", "MMStar"), ("mmbench-r", "MMBench_DEV_EN_V11"),
                       ("ai2d", "AI2D_TEST")):  # fmt: skip
        assert place_of(BENCHMARKS[name], tmp_path, {}) == tmp_path / f"{file}.tsv"
    with pytest.raises(BadConfig, match="mathvista: its data are not in"):
        place_of(BENCHMARKS["mathvista"], tmp_path, {})
    published.ai2d_tsv(tmp_path, mask=False)
    with pytest.raises(BadConfig, match=r"AI2D_TEST.tsv and .*NO_MASK.tsv are both there"):
        place_of(BENCHMARKS["ai2d"], tmp_path, {})


def refusal(name: str, path: Path, folder: Path) -> str:
    with pytest.raises(BadConfig) as caught:
        load(BENCHMARKS[name], path, folder / "pictures", 10**7)
    return str(caught.value)


def test_data_of_another_benchmark_and_without_the_split(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
    ai2d = published.ai2d_tsv(tmp_path / "a")
    assert "is read from mathvista" in refusal("mathvista", ai2d, tmp_path)
    assert "with l2_category" in refusal("mmstar-r", ai2d, tmp_path)
    published.mmk12(tmp_path / "b")
    assert "is in the form mmk12" in refusal("m3cot", tmp_path / "b", tmp_path)
    m3cot = published.m3cot(tmp_path / "c")
    m3cot.rename(m3cot.with_name("train-00000-of-00001.parquet"))
    text = refusal("m3cot", tmp_path / "c", tmp_path)
    assert "has no split 'test'; it has train" in text
    rows = [
        row | {"answer": "", "choices": None, "decoded_image": embedded(row["number"])}
        for row in published.mathvista_rows()
    ]
    hidden = write_parquet(tmp_path / "d" / "test.parquet", rows)
    assert "are hidden; take the split 'testmini'" in refusal("mathvista", hidden, tmp_path)


def test_names_that_are_none() -> None:
    with pytest.raises(BadConfig, match="did you mean 'mathvista'"):
        named("mathvist")
    with pytest.raises(BadConfig, match="each once"):
        named("ai2d,ai2d")
    with pytest.raises(BadConfig, match="name benchmarks"):
        named(",")


def test_a_place_is_name_and_path(tmp_path: Path) -> None:
    done = mstar("benchmark", "--data", "mathvista")
    assert (done.exit_code, "write it as NAME=PATH" in done.output) == (2, True)


@pytest.mark.parametrize(
    ("text", "strict", "official"),
    [
        ("B", "# Answer\n\nB", "B"),
        ("I count.\n\n# Answer\n\nB", "I count.\n\n# Answer\n\nB", "B"),
        ("The answer is B.", "The answer is B.", "The answer is B."),
        ("It is B\nor C", "It is B\nor C", "It is B\nor C"),
        ("", "", ""),
    ],
)
def test_what_the_strict_grader_and_the_published_rule_are_given(
    text: str, strict: str, official: str
) -> None:
    assert strict_text(text) == strict
    assert official_text(text) == official
