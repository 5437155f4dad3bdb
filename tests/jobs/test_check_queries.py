"""What a run says of queries that its policy cannot be asked, before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from actors.generation.engine_settings import engine_settings
from jobs.runtime.check_queries import check_queries
from pipeline.config.fields import to_dict
from pipeline.config.load import config_from_dict
from pipeline.config.schema import Config
from pipeline.datasets.dataset import Dataset, load_dataset
from pipeline.errors import BadRows
from pipeline.run.spec import RunSpec
from tests.support.dataset_files import numbered, write_jsonl
from tests.support.jobs import mstar
from tests.support.models import make_policy
from tests.support.scripted import make_config


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy") / "policy", 0)


def config_of(policy: Path, **generate: Any) -> Config:
    plain = to_dict(make_config())
    plain["policy"]["path"] = str(policy)
    plain["generate"] |= generate
    return config_from_dict(plain)


def spec_of(config: Config, dataset: Dataset, count: int | None = None) -> RunSpec:
    """A run that trains on the first queries of a data set."""
    train = tuple(dataset.queries[:count])
    return RunSpec(config, {"train": train}, engine_settings(config).identity(), "grader")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    Image.effect_noise((40, 30), 50).save(tmp_path / "one.png")
    rows = numbered(4, images=["one.png"])
    rows[1]["question"] = "word " * 400
    rows[2]["question"] = "a <end_of_utterance>".replace("<", "`<").replace(">", ">`")
    return load_dataset(write_jsonl(tmp_path / "data.jsonl", rows))


def test_they_are_named_by_row_and_reason(policy: Path, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(BadRows) as caught:
        check_queries(spec_of(config_of(policy, max_model_len=300), dataset), dataset, print)
    file = tmp_path / "data.jsonl"
    text = str(caught.value)
    assert text.startswith(f"2 of 4 queries cannot be asked of {policy}, and")
    assert "prompts that do not fit generate.max_model_len: 1 (raise it, or have images" in text
    assert f"{file}:2: asked with" in text
    assert "generate.max_model_len = 300 leaves no room" in text
    assert f"{file}:3: the text holds '<end_of_utterance>', a special token" in text
    assert [(row.file, row.row) for row in caught.value.rows] == [(str(file), 2), (str(file), 3)]


def test_the_command_refuses_them_before_it_starts_anything(policy: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [
        {"question": f"{split} {n}?", "answer": "1", "split": split}
        for split, count in (("train", 12), ("validation", 5), ("test", 5))
        for n in range(count)
    ]
    rows[3]["question"] = "word " * 9000
    plain = to_dict(config_of(policy))
    plain["run"] |= {"out": str(tmp_path / "out"), "console": "plain"}
    plain["data"]["path"] = str(write_jsonl(data, rows))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(plain))
    bad = tmp_path / "bad.jsonl"
    done = mstar("run", "--recipe", recipe, "--bad-rows", bad)
    assert done.exit_code == 2, done.output
    assert f"{data}:4: asked with" in done.output
    assert [json.loads(line)["row"] for line in bad.read_text().splitlines()] == [4]
    assert not list((tmp_path / "out").rglob("lease")), "the run began"


def test_the_warm_ups_prompt_is_tried_too(policy: Path, dataset: Dataset, tmp_path: Path) -> None:
    plain = to_dict(config_of(policy, max_model_len=300))
    plain["prompt"]["warmup"] = "{question} {gold}" + " Explain every step." * 400
    config = config_from_dict(plain)
    with pytest.raises(BadRows) as caught:
        check_queries(spec_of(config, dataset, 1), dataset, print)
    text = f"{tmp_path / 'data.jsonl'}:1: as the warm-up asks (prompt.warmup): asked with "
    assert text in str(caught.value)
    check_queries(spec_of(config, dataset, 1), dataset, print, warmup=False)
    plain["warmup"]["checkpoint"] = str(policy)
    plain["evolve"]["control"] = False
    check_queries(spec_of(config_from_dict(plain), dataset, 1), dataset, print)


def test_so_many_as_may_be_left_out_are_said_and_no_more(policy: Path, dataset: Dataset) -> None:
    said: list[str] = []
    config = config_of(policy, max_model_len=300, max_bad_queries=2)
    check_queries(spec_of(config, dataset), dataset, said.append)
    assert said[0].startswith(f"2 of 4 queries cannot be asked of {policy}, and 2 may be left out")
    assert "do not fit generate.max_model_len: 1 (" in said[0]
    assert [line.split(": ")[0] for line in said[1:]] == ["will be left out"] * 2


def test_a_template_that_writes_the_date_is_said(
    policy: Path, dataset: Dataset, tmp_path: Path
) -> None:
    dated = make_policy(tmp_path / "dated", 0)
    template = dated / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }}" + template.read_text())
    for folder, count in ((policy, 0), (dated, 1)):
        said: list[str] = []
        check_queries(spec_of(config_of(folder), dataset, 1), dataset, said.append)
        assert len(said) == count
        assert all("writes the date: in every prompt it is 26 July 2024" in line for line in said)
