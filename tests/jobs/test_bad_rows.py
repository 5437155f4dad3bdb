"""Every bad row goes into the file that --bad-rows names, and nothing else is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from jobs.runtime.bad_rows import bad_rows_to
from pipeline.config.fields import to_dict
from pipeline.datasets.dataset import load_dataset
from pipeline.errors import BadConfig, BadData
from tests.support.dataset_files import GOOD, numbered, write_jsonl
from tests.support.jobs import job_config, mstar


def test_all_of_300_bad_rows_are_written_and_20_listed(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [GOOD, *numbered(300, answer_type="numbr")])
    file = tmp_path / "bad.jsonl"
    with pytest.raises(BadData) as caught, bad_rows_to(file):
        load_dataset(data)
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["file"], row["row"]) for row in written] == [
        (str(data), number) for number in range(2, 302)
    ]
    assert written[0]["reasons"] == ["unknown answer_type 'numbr'; did you mean 'number'?"]
    lines = str(caught.value).splitlines()
    assert len([line for line in lines if f"{data}:" in line]) == 21
    assert lines[-2:] == ["  and 280 more", f"  all 300 are in {file}"]


@pytest.mark.parametrize("command", ["run", "validate"])
def test_the_commands_write_it_and_exit_with_2(command: str, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [GOOD, *numbered(30, answer_type="numbr")])
    file = tmp_path / "bad.jsonl"
    settings = [f"data.path={data}", f"run.out={tmp_path}/out", "run.console=plain"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    done = mstar(command, *arguments, "--bad-rows", file)
    assert done.exit_code == 2, done.output
    assert f"all 30 are in {file}" in done.output
    assert len(file.read_text().splitlines()) == 30


def test_without_a_file_the_message_says_how_to_get_all(tmp_path: Path) -> None:
    few = write_jsonl(tmp_path / "few.jsonl", [{"question": "?"}])
    with pytest.raises(BadData) as caught, bad_rows_to(None):
        load_dataset(few)
    assert "--bad-rows" not in str(caught.value)
    many = write_jsonl(tmp_path / "many.jsonl", [{"question": "?"}] * 21)
    with pytest.raises(BadData, match="--bad-rows FILE writes all of them"), bad_rows_to(None):
        load_dataset(many)


def test_the_same_command_writes_its_file_again_and_empties_it(tmp_path: Path) -> None:
    data, file = tmp_path / "data.jsonl", tmp_path / "bad.jsonl"
    for rows, count in (([{"question": "?"}] * 3, 3), ([{"question": "?"}], 1)):
        with pytest.raises(BadData), bad_rows_to(file):
            load_dataset(write_jsonl(data, rows))
        assert len(file.read_text().splitlines()) == count
    with bad_rows_to(file):
        load_dataset(write_jsonl(data, [GOOD]))
    assert file.read_text() == ""


@pytest.mark.parametrize("held", ['{"question": "?", "answer": "1"}', "notes", "[1]", "5"])
def test_a_file_that_holds_something_else_is_not_written_over(tmp_path: Path, held: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(held)
    with pytest.raises(BadConfig, match="holds something else"), bad_rows_to(file):
        raise AssertionError("it was used")
    assert file.read_text() == held


def test_a_place_that_cannot_be_written_is_said_before_the_data_are_read(tmp_path: Path) -> None:
    for file in (tmp_path / "no" / "bad.jsonl", tmp_path):
        with pytest.raises(BadConfig, match=f"--bad-rows {file}"), bad_rows_to(file):
            raise AssertionError("it was used")


@pytest.mark.parametrize("command", ["run", "validate", "evaluate", "prm"])
def test_every_command_that_reads_data_writes_them(command: str, tmp_path: Path) -> None:
    config = job_config(tmp_path)
    Path(config.data.path).write_text('{"question": "?", "anwser": "5"}\n')
    recipe, file = tmp_path / "recipe.yaml", tmp_path / "bad.jsonl"
    recipe.write_text(yaml.safe_dump(to_dict(config)))
    more = ["--policy", tmp_path] if command == "evaluate" else ["--set", "select.reward=prm"]
    done = mstar(command, "--recipe", recipe, *more, "--bad-rows", file)
    assert done.exit_code == 2
    assert f"all 1 are in {file}" in done.output
    assert json.loads(file.read_text())["row"] == 1
