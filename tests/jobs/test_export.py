"""Policies as folders that a person can open."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.run import evolve
from jobs.runtime.export import export_policy
from jobs.runtime.prepare import out_folder
from pipeline.errors import CorruptObject
from pipeline.refs import PolicyRef
from pipeline.storage.models import publish_folder
from pipeline.storage.store import Store, open_store
from tests.support.jobs import SCRIPTED, job_config, mstar


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Store, PolicyRef]:
    base = tmp_path / "base"
    (base / "part").mkdir(parents=True)
    for name in ("README.md", "config.json", "part/weights"):
        (base / name).write_text(f"the base's {name}")
    store = open_store("memory://")
    return store, publish_folder(store, base)


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_policy_is_copied_complete_with_a_card_of_its_own(
    stored: tuple[Store, PolicyRef], tmp_path: Path
) -> None:
    final, said = tmp_path / "final", list[str]()
    for card in ("a card", "a card", "its newer card"):
        export_policy(*stored, final, card, said.append)
        assert files(final) == {
            "README.md": card,
            "config.json": "the base's config.json",
            "part/weights": "the base's part/weights",
        }
    assert said == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "final"]


def test_what_a_person_put_there_is_moved_aside(
    stored: tuple[Store, PolicyRef], tmp_path: Path
) -> None:
    final, said = tmp_path / "final", list[str]()
    final.mkdir()
    (final / "notes").write_text("mine")
    export_policy(*stored, final, "its card", said.append)
    (aside,) = tmp_path.glob("final-*")
    assert files(aside) == {"notes": "mine"}
    assert said == [f"{final} held something else, which is now {aside}"]
    assert files(final)["README.md"] == "its card"


def test_a_damaged_policy_is_not_exported(stored: tuple[Store, PolicyRef], tmp_path: Path) -> None:
    store, policy = stored
    store.replace(f"{policy.path}/config.json", b"rotten")
    with pytest.raises(CorruptObject, match=r"config\.json"):
        export_policy(store, policy, tmp_path / "final", "its card")
    assert not (tmp_path / "final").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    config = job_config(tmp_path_factory.mktemp("run"))
    evolve(config, parts=SCRIPTED)
    return out_folder(config)


def test_any_policy_of_a_run_is_exported(finished: Path, tmp_path: Path) -> None:
    to = tmp_path / "models" / "first"
    done = mstar("export", "policy", finished, "--policy", "evolve/0", "--to", to)
    assert done.exit_code == 0, done.output
    (sha256,) = {line.rpartition(" ")[2] for line in done.output.splitlines()}
    card = (to / "README.md").read_text()
    assert sha256 in card
    (entry,) = re.findall(r"ledger: `(.*)`", card)
    assert sha256 in (finished / "store" / entry).read_text()
    assert str(finished.parent) not in card
    assert (to / "model.json").is_file()
    again = mstar("export", "policy", finished, "--policy", "evolve/0", "--to", to)
    assert again.exit_code == 2
    assert "is there already" in again.output
    unknown = mstar("export", "policy", finished, "--policy", "evolve/00", "--to", tmp_path / "x")
    assert unknown.exit_code == 2
    assert "did you mean 'evolve/0'?" in unknown.output


def test_selected_responses_are_exported_in_words(finished: Path, tmp_path: Path) -> None:
    to = tmp_path / "selected.jsonl"
    done = mstar("export", "selected", finished, "--phase", "evolve/0", "--to", to)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in to.read_text().splitlines()]
    assert done.output.startswith(f"{to}: {len(rows)} responses selected in evolve/0")
    for row in rows:
        assert row["answer"] == row["gold"]
        assert row["response"].endswith(row["gold"])
        assert row["question"].startswith("train: what is ")
        traced = mstar("trace", row["sample"], finished)
        assert traced.exit_code == 0, traced.output
    all_phases = tmp_path / "all.jsonl"
    assert mstar("export", "selected", finished, "--to", all_phases).exit_code == 0
    names = {json.loads(line)["sample"].partition(":")[0] for line in all_phases.open()}
    assert names == {"warmup", "control", "evolve/0", "evolve/1", "evolve/2"}
    unknown = mstar("export", "selected", finished, "--phase", "evolve/9", "--to", to)
    assert unknown.exit_code == 2
    assert "It has selected in: warmup, " in unknown.output


def test_selected_responses_are_exported_in_the_forms_of_others(
    finished: Path, tmp_path: Path
) -> None:
    counts = set()
    for form in ("jsonl", "parquet", "llava", "verl"):
        to = tmp_path / form
        done = mstar("export", "selected", finished, "--as", form, "--to", to)
        assert done.exit_code == 0, done.output
        if form == "jsonl":
            counts.add(len(to.read_text().splitlines()))
        elif form == "llava":
            counts.add(len(json.loads((to / "data.json").read_text())))
        else:
            counts.add(pq.read_table(to).num_rows)
    assert len(counts) == 1
    again = mstar("export", "selected", finished, "--as", "llava", "--to", tmp_path / "llava")
    assert again.exit_code == 2
    assert "is there already" in again.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jsonl", "llava", "parquet", "verl"]


def test_a_run_without_a_process_reward_model_has_none_to_export(
    finished: Path, tmp_path: Path
) -> None:
    done = mstar("export", "labels", finished, "--to", tmp_path / "labels")
    assert (done.exit_code, "has no step labels" in done.output) == (2, True)
    done = mstar("export", "prm", finished, "--to", tmp_path / "prm")
    assert (done.exit_code, "has no policy 'prm'" in done.output) == (2, True)
    assert list(tmp_path.iterdir()) == []
