"""The command before any engine starts: bad input is refused, a finished run is not redone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from typer.testing import CliRunner

from jobs.run import app
from jobs.runtime.cli import ending
from jobs.runtime.prepare import load_data, out_folder, repairer, store_url, upload_images, versions
from pipeline.config.fields import to_dict
from pipeline.config.load import config_from_dict
from pipeline.config.schema import Config
from pipeline.driver.driver import Driver
from pipeline.errors import ArtifactLost
from pipeline.run.ledger import Ledger
from pipeline.run.spec import RunSpec
from pipeline.stages.workers import Workers
from pipeline.storage.models import publish_folder
from pipeline.storage.store import Store, open_store
from pipeline.storage.trees import put_content_tree
from tests.support.scripted import Quiet, base_folder, make_config
from tests.support.scripted_world import ENGINE, GRADER, make_world


def script_main_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main job over scripted roles, without Ray."""

    @contextmanager
    def running(program: RunSpec, store: Store, *_: Any) -> Iterator[Workers]:
        yield make_world(store, program)[0]

    monkeypatch.setattr("jobs.run.check_models", lambda config: None)
    monkeypatch.setattr("jobs.run.check_queries", lambda *_: None)
    monkeypatch.setattr("jobs.run.engine_settings", lambda config: Mock(identity=lambda: ENGINE))
    monkeypatch.setattr("jobs.run.GRADER_VERSION", GRADER)
    monkeypatch.setattr("jobs.run.running", running)


def write_data(folder: Path) -> Path:
    """Questions without images: 12 to train on, 5 to validate, 5 to test."""
    path = folder / "data.jsonl"
    sizes = {"train": 12, "validation": 5, "test": 5}
    rows = [
        {
            "query_id": f"{split}-{i}",
            "question": f"{split}: what is {i}?",
            "answer": str(i),
            "answer_type": "number",
            "split": split,
        }
        for split, size in sizes.items()
        for i in range(size)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Config:
    plain = to_dict(make_config())
    plain["run"] |= {"out": str(tmp_path / "out"), "console": "plain"}
    plain["data"]["path"] = str(write_data(tmp_path))
    plain["policy"]["path"] = str(base_folder(tmp_path / "base"))
    return config_from_dict(plain)


def command(config: Config, tmp_path: Path, *overrides: str) -> Any:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(config)))
    arguments = ["--config", str(recipe)]
    for override in overrides:
        arguments += ["--set", override]
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("generate.sampels=3", ["generate.sampels", "generate.samples"]),
        ("generate.samples=0", ["generate.samples = 0"]),
        ("data.validation=dev", ["data.validation = dev", "test (5), train (12), validation (5)"]),
        ("learn.ranks=4096", ["learn.ranks = 4096"]),
        ("data.path=nowhere.jsonl", ["nowhere.jsonl"]),
        ("store.url=gopher://x", ["gopher"]),
        ("store.url=memory://x", ["memory://x", "engines are others"]),
    ],
)
def test_bad_input_is_refused_with_a_clear_word(
    config: Config, tmp_path: Path, override: str, words: list[str]
) -> None:
    done = command(config, tmp_path, override)
    assert done.exit_code == 2, done.output
    for word in words:
        assert word in done.output
    assert "Traceback" not in done.output


def test_a_store_that_cannot_be_written_is_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = command(config, tmp_path, f"store.url={tmp_path / 'file' / 'store'}")
    assert done.exit_code == 2, done.output
    assert str(tmp_path / "file") in done.output
    assert "Traceback" not in done.output


def test_a_folder_that_is_no_model_is_refused(config: Config, tmp_path: Path) -> None:
    done = command(config, tmp_path)
    assert done.exit_code == 2, done.output
    assert str(tmp_path / "base") in done.output
    assert not list((out_folder(config) / "store" / "runs").glob("*/lease/*"))


def test_a_test_split_that_the_data_lacks_is_left_out_with_a_word(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_main_job(monkeypatch)
    done = command(config, tmp_path, "data.test=[test, ood]", "data.test_queries=500")
    assert done.exit_code == 0, done.output
    assert "the data has no split 'ood', which is left out" in done.output
    assert "data.test_queries (test) = 500, there are 5" in done.output
    found = json.loads((out_folder(config) / "summary.json").read_text())
    assert set(found["final"]) == {"validation", "test"}


def finish(config: Config) -> Store:
    """Let a scripted world finish this run."""
    store = open_store(store_url(config))
    dataset = load_data(config, lambda text: None)
    program = RunSpec.of(config, dataset, ENGINE, GRADER)
    world, _, _ = make_world(store, program)
    Driver(program, store, Ledger(store, config.run.name), world, Quiet()).run()
    return store


def test_a_finished_run_says_so_and_writes_its_summary(config: Config, tmp_path: Path) -> None:
    finish(config)
    done = command(config, tmp_path)
    assert done.exit_code == 0, done.output
    assert "is finished" in done.output
    assert "final - warmup on test" in done.output
    folder = out_folder(config)
    found = json.loads((folder / "summary.json").read_text())
    final = found["policies"]["final"]
    last = f"final policy ({final['name']}): {folder / 'final'}, sha256 {final['sha256']}"
    assert done.output.splitlines()[-1] == last
    assert (folder / "final" / "model.json").is_file()
    assert final["version"] in (folder / "final" / "README.md").read_text()
    for name in ("base", "warmup", "final"):
        assert {"greedy", "n", "ci95"} <= set(found[name]["test"])
    assert {"iterations", "wall_s", "stage_s", "config_hash", "versions"} <= set(found)


def test_other_data_are_refused_by_row_on_a_finished_run_too(
    config: Config, tmp_path: Path
) -> None:
    finish(config)
    file = Path(config.data.path)
    whole = file.read_text().splitlines()
    changed = [
        line.replace('"answer": "3"', '"answer": "4"') for line in whole if "test-1" not in line
    ]
    file.write_text("\n".join(changed) + "\n")
    done = command(config, tmp_path)
    assert done.exit_code == 2, done.output
    for words in (
        "began with other data:",
        "test: 1 removed: test-1",
        "train: the answer of train-3 was 3 (number) and is 4 (number)",
        "--set run.name=",
    ):
        assert words in done.output
    assert "Traceback" not in done.output
    assert not (out_folder(config) / "summary.json").exists()


def test_settings_that_may_change_are_said_on_a_finished_run_too(
    config: Config, tmp_path: Path
) -> None:
    finish(config)
    micro_batch = config.learn.micro_batch
    done = command(config, tmp_path, f"learn.micro_batch={micro_batch + 1}")
    assert done.exit_code == 0, done.output
    said = f"changed since the run was started: learn.micro_batch: {micro_batch} -> "
    assert said in done.output


def test_a_finished_run_whose_grades_are_lost_makes_them_again(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that is read for the summary ends the command with a traceback."""
    store = finish(config)
    event = next(
        event
        for event in Ledger(store, config.run.name).replay()
        if event["type"] == "evaluated" and event["split"] == "test" and event["mode"] == "greedy"
    )
    store.replace(event["grades"][0], b"rotten")

    script_main_job(monkeypatch)
    done = command(config, tmp_path)
    assert done.exit_code == 0, done.output
    assert f"{event['grades'][0]} is lost" in done.output
    assert "final - warmup on test" in done.output
    assert "is finished; nothing is left to do" in command(config, tmp_path).output


def test_a_loss_that_nobody_mends_is_an_error_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, ending():
        raise ArtifactLost("shards/grade/k/x.parquet", "it is gone")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "stopped: shards/grade/k/x.parquet: it is gone\n"


def test_a_changed_config_is_refused_before_anything_starts(config: Config, tmp_path: Path) -> None:
    finish(config)
    done = command(config, tmp_path, "generate.temperature=0.7")
    assert done.exit_code == 2
    assert "generate.temperature: 1.0 -> 0.7" in done.output


def test_versions_name_what_decides_results() -> None:
    found = versions()
    assert {"python", "torch", "transformers", "deepspeed", "ray"} <= set(found)


def test_what_is_lost_is_put_back_from_the_copies_there_are(config: Config, tmp_path: Path) -> None:
    store = open_store("memory://")
    dataset = load_data(config, lambda text: None)
    sha = "a" * 64
    picture = tmp_path / "a.png"
    picture.write_bytes(b"not looked at here")
    dataset.image_paths[sha] = picture
    dataset.image_bytes = lambda sha: picture.read_bytes()  # type: ignore[method-assign]
    assert upload_images(store, dataset, [sha, sha]) == 1
    assert upload_images(store, dataset, [sha]) == 0
    kept = tmp_path / "kept"
    repair = repairer(store, dataset, config, kept)
    store.delete(f"images/{sha}")
    assert repair(f"images/{sha}")
    assert store.get(f"images/{sha}") == b"not looked at here"
    base = publish_folder(store, Path(config.policy.path))
    for path in store.list(base.path):
        store.delete(path)
    assert repair(base.path)
    assert store.exists(f"{base.path}/model.json")
    copy = kept / "checkpoints" / "x"
    copy.mkdir(parents=True)
    (copy / "state.json").write_text("{}")
    path = put_content_tree(store, "checkpoints", "evolve-0", copy)
    copy.rename(copy.with_name(path.rsplit("/", 1)[-1]))
    for one in store.list(path):
        store.delete(one)
    assert repair(path)
    assert store.exists(f"{path}/state.json")
    assert not repair(f"policies/model/{'0' * 64}")
    assert not repair(f"shards/select/k/{'0' * 64}.parquet")


@pytest.mark.parametrize("left", [b"", b'{"checksum":"0"}'])
def test_a_run_that_cannot_go_on_says_why_and_exits_with_1(
    config: Config, tmp_path: Path, left: bytes
) -> None:
    """A damaged ledger entry: nothing can make it again, and nothing is started."""
    store = open_store(store_url(config))
    ledger = Ledger(store, config.run.name)
    for n in range(3):
        ledger.append([{"type": "driver_started", "versions": {"n": str(n)}, "changes": []}])
    store.replace(ledger.path(1), left)
    ended = command(config, tmp_path)
    assert ended.exit_code == 1
    assert f"stopped: {store.url}: ledger entry {ledger.path(1)}" in ended.output
