"""The command before any engine starts: bad input is refused, a finished run is not redone."""

from __future__ import annotations

import json
import shutil
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from jobs.run import evolve
from jobs.runtime.cli import ending
from jobs.runtime.prepare import load_data, out_folder, repairer, store_url, upload_images, versions
from pipeline.config.load import changed_config
from pipeline.config.schema import Config
from pipeline.errors import ArtifactLost, RunStopped
from pipeline.run.lease import last_tenure
from pipeline.run.ledger import Ledger
from pipeline.run.spec import RunSpec
from pipeline.storage.models import publish_folder
from pipeline.storage.store import Store, open_store
from pipeline.storage.tree_cache import TreeCache
from pipeline.storage.trees import put_content_tree
from tests.support.jobs import SCRIPTED, NoLock, job_config, refused, run_command


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return job_config(tmp_path)


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
    said = refused(config, tmp_path, override)
    for word in words:
        assert word in said


def test_a_store_that_cannot_be_written_is_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = refused(config, tmp_path, f"store.url={tmp_path / 'file' / 'store'}")
    assert str(tmp_path / "file") in said


def test_a_folder_that_is_no_model_is_refused(config: Config, tmp_path: Path) -> None:
    said = refused(config, tmp_path)
    assert str(tmp_path / "base") in said
    assert not list((out_folder(config) / "store" / "runs").glob("*/lease/*"))


def test_a_test_split_that_the_data_lacks_is_left_out_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = job_config(tmp_path, data={"test": ["test", "ood"], "test_queries": 500})
    found = evolve(config, parts=SCRIPTED)
    shown = capsys.readouterr().out
    assert "the data has no split 'ood', which is left out" in shown
    assert "data.test_queries (test) = 500, there are 5" in shown
    assert set(found["final"]) == {"validation", "test"}


def test_a_finished_run_says_so_and_writes_its_summary(config: Config, tmp_path: Path) -> None:
    evolve(config, parts=SCRIPTED)
    done = run_command(config, tmp_path)
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
    evolve(config, parts=SCRIPTED)
    summary = out_folder(config) / "summary.json"
    summary.unlink()
    file = Path(config.data.path)
    whole = file.read_text().splitlines()
    changed = [
        line.replace('"answer": "3"', '"answer": "4"') for line in whole if "test-1" not in line
    ]
    file.write_text("\n".join(changed) + "\n")
    said = refused(config, tmp_path)
    for words in (
        "began with other data:",
        "test: 1 removed: test-1",
        "train: the answer of train-3 was 3 (number) and is 4 (number)",
        "--set run.name=",
    ):
        assert words in said
    assert not summary.exists()


def test_what_is_waited_for_is_as_long_as_is_asked(config: Config) -> None:
    """The store, a lease that was not released, and the cluster's word on who drives."""
    asked: dict[str, Any] = {}

    class Lock(NoLock):
        def __init__(self, *_: Any, **options: Any) -> None:
            asked.update(options)

    def nobody(_: RunSpec, store: Store, *__: Any) -> NoReturn:
        assert copy(store).patience_s == store.patience_s == 7.0  # as it is sent to workers
        raise RunStopped("far enough")

    changes = ["store.patience_s=7", "store.lease_s=9", "cluster.lock_s=11"]
    config = changed_config(config, changes)
    with pytest.raises(RunStopped, match="far enough"):
        evolve(config, parts=replace(SCRIPTED, lock=Lock, workers=nobody))
    assert asked["answer_s"] == 11.0
    found = last_tenure(open_store(store_url(config)), config.run.name)
    assert found is not None
    assert found[0].ttl_s == 9.0


def test_settings_that_may_change_are_said_on_a_finished_run_too(
    config: Config, tmp_path: Path
) -> None:
    evolve(config, parts=SCRIPTED)
    micro_batch = config.learn.micro_batch
    done = run_command(config, tmp_path, f"learn.micro_batch={micro_batch + 1}")
    assert done.exit_code == 0, done.output
    said = f"changed since the run was started: learn.micro_batch: {micro_batch} -> "
    assert said in done.output


def test_a_finished_run_whose_grades_are_lost_makes_them_again(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing that is read for the summary ends the command with a traceback."""
    evolve(config, parts=SCRIPTED)
    store = open_store(store_url(config))
    event = next(
        event
        for event in Ledger(store, config.run.name).replay()
        if event["type"] == "evaluated" and event["split"] == "test" and event["mode"] == "greedy"
    )
    store.replace(event["grades"][0], b"rotten")

    capsys.readouterr()
    evolve(config, parts=SCRIPTED)
    shown = capsys.readouterr().out
    assert f"{event['grades'][0]} is lost" in shown
    assert "final - warmup on test" in shown
    assert "is finished; nothing is left to do" in run_command(config, tmp_path).output


def test_no_run_begins_beside_what_an_earlier_one_left(config: Config, tmp_path: Path) -> None:
    evolve(config, parts=SCRIPTED)
    shutil.rmtree(out_folder(config) / "store")
    said = refused(config, tmp_path)
    left = "summary.json, tensorboard, cards, final"
    assert f"{out_folder(config)} holds {left} of an earlier run" in said
    assert "that store was deleted, or is another one (store.url)" in said


def test_a_setting_that_nothing_reads_is_said(config: Config, tmp_path: Path) -> None:
    done = run_command(config, tmp_path, "data.validation=dev")
    assert "warning: nothing reads prm.aggregate, " in done.output
    assert "select.reward = binary uses no process reward model" in done.output


def test_a_loss_that_nobody_mends_is_an_error_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, ending():
        raise ArtifactLost("shards/grade/k/x.parquet", "it is gone")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "stopped: shards/grade/k/x.parquet: it is gone\n"


def test_a_changed_config_is_refused_before_anything_starts(config: Config, tmp_path: Path) -> None:
    evolve(config, parts=SCRIPTED)
    said = refused(config, tmp_path, "generate.temperature=0.7")
    assert "generate.temperature: 1.0 -> 0.7" in said


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
    cache = TreeCache(tmp_path / "cache")
    repair = repairer(store, dataset, config, cache)
    store.delete(f"images/{sha}")
    assert repair(f"images/{sha}")
    assert store.get(f"images/{sha}") == b"not looked at here"
    base = publish_folder(store, Path(config.policy.path))
    for path in store.list(base.path):
        store.delete(path)
    assert repair(base.path)
    assert store.exists(f"{base.path}/model.json")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "state.json").write_text("{}")
    path = put_content_tree(store, "checkpoints", "learner", copy)
    cache.adopt(path, copy)
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
    ended = run_command(config, tmp_path)
    assert ended.exit_code == 1
    assert f"stopped: {store.url}: ledger entry {ledger.path(1)}" in ended.output
