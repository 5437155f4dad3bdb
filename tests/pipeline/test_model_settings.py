"""How model folders are read: what is stored with them, and what a run with other settings says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.config.load import config_from_dict
from pipeline.errors import BadModel
from pipeline.model_settings import FILE, ModelSettings, stored_settings
from pipeline.storage.models import publish_folder
from pipeline.storage.store import open_store
from pipeline.storage.trees import check_tree, fetch_tree, scan_tree

OTHER = ModelSettings(image_backend="torchvision")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "zebra.txt").write_text("last by name")
    return folder


def test_defaults_leave_a_folder_as_it_is(model: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    reference = publish_folder(store, model, settings=ModelSettings())
    assert reference == publish_folder(store, model)
    assert reference.path.endswith(scan_tree(model).sha256)
    assert stored_settings(model) == ModelSettings()


def test_other_settings_are_published_with_the_folder(model: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    reference = publish_folder(store, model, settings=OTHER)
    assert reference != publish_folder(store, model)
    assert not (model / FILE).exists()
    assert check_tree(store, reference.path) == []
    got = tmp_path / "got"
    fetch_tree(store, reference.path, got)
    assert stored_settings(got) == OTHER
    # What was trained from it is published as it is, and by the user again with equal settings.
    assert publish_folder(store, got) == reference == publish_folder(store, got, settings=OTHER)
    shutil.rmtree(got)


def test_a_folder_trained_with_other_settings_is_refused(model: Path, tmp_path: Path) -> None:
    (model / FILE).write_bytes(OTHER.files()[FILE])
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(BadModel, match=r'set policy\.image_backend="torchvision", or delete'):
        publish_folder(store, model, settings=ModelSettings())
    assert store.list("policies") == []


@pytest.mark.parametrize("text", ["[]", "{", '{"image_backend": "x"}', '{"newer": 1}', '"pil"'])
def test_a_damaged_file_of_settings_is_named(model: Path, text: str) -> None:
    (model / FILE).write_text(text)
    with pytest.raises(BadModel, match=FILE):
        stored_settings(model)


def test_a_configuration_says_how_its_models_are_read() -> None:
    assert config_from_dict({}).model_settings == ModelSettings()
    config = config_from_dict({"policy": {"image_backend": "torchvision"}})
    assert config.model_settings == OTHER
