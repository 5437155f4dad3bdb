"""Policies as folders that a person can open."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.runtime.export import export_policy
from pipeline.errors import CorruptObject
from pipeline.refs import PolicyRef
from pipeline.storage.models import publish_folder
from pipeline.storage.store import Store, open_store


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
    for _ in range(2):  # the second time nothing is left to do
        export_policy(*stored, final, "its card", said.append)
        assert files(final) == {
            "README.md": "its card",
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
