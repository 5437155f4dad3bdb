"""How model folders are read: what is stored with them, and what a run with other settings says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.config.load import config_from_dict
from pipeline.config.resume import check_resume, config_hash
from pipeline.errors import BadModel
from pipeline.model_settings import (
    FILE,
    ModelSettings,
    check_code,
    published_settings,
    stored_settings,
)
from pipeline.storage.models import check_trusted, publish_folder
from pipeline.storage.store import open_store
from pipeline.storage.trees import check_tree, fetch_tree, read_manifest, scan_tree

OTHER = ModelSettings(image_backend="torchvision")
TRUSTING = ModelSettings(trust_remote_code=True)


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


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"trust_remote_code": 1}', '{"image_backend": "x"}', '{"newer": 1}', '"pil"'],
)
def test_a_damaged_file_of_settings_is_named(model: Path, text: str) -> None:
    (model / FILE).write_text(text)
    with pytest.raises(BadModel, match=FILE):
        stored_settings(model)


def test_a_configuration_says_how_its_models_are_read() -> None:
    assert config_from_dict({}).model_settings == ModelSettings()
    config = config_from_dict({"policy": {"image_backend": "torchvision"}})
    assert config.model_settings == OTHER


@pytest.fixture
def own(model: Path) -> Path:
    """A model whose code lies in its folder."""
    classes = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    (model / "config.json").write_text(json.dumps({"auto_map": classes}))
    (model / "own.py").write_text("from .helper import Model, Config\n")
    (model / "helper.py").write_text("class Model: ...\nclass Config: ...\n")
    return model


def test_code_is_published_with_the_policy_and_part_of_its_hash(own: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    reference = publish_folder(store, own, settings=TRUSTING)
    files = [file.path for file in read_manifest(store, reference.path).files]
    assert files == ["config.json", "helper.py", FILE, "own.py", "zebra.txt"]
    # That it is run is part of the hash too: a class of transformers' own is another model.
    assert reference != publish_folder(store, own, settings=ModelSettings())
    (own / "helper.py").write_text("class Model: ...\nclass Config:  ...\n")
    assert publish_folder(store, own, settings=TRUSTING) != reference


def test_a_folder_without_code_is_the_same_policy_whether_code_may_be_run(
    model: Path, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "store"))
    assert publish_folder(store, model, settings=TRUSTING) == publish_folder(store, model)


def test_no_folder_consents_to_its_own_code(own: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    reference = publish_folder(store, own, settings=TRUSTING)
    got = tmp_path / "got"
    fetch_tree(store, reference.path, got)
    with pytest.raises(BadModel, match=r"\(own\.py\).*set policy\.trust_remote_code=true"):
        published_settings(got, trusted=False)
    with pytest.raises(BadModel, match=r"\(own\.py\)"):
        publish_folder(store, got, settings=ModelSettings())
    assert published_settings(got, trusted=True) == TRUSTING
    # Consent alone makes nothing of a folder that was published as one whose code is not run.
    plain = publish_folder(store, own)
    fetch_tree(store, plain.path, tmp_path / "plain")
    assert published_settings(tmp_path / "plain", trusted=True) == ModelSettings()
    with pytest.raises(BadModel, match=rf"{reference.version}.*\(helper\.py, own\.py\)"):
        check_trusted(store, [plain, reference], trusted=False)
    check_trusted(store, [plain, reference], trusted=True)


def test_code_that_lies_elsewhere_is_refused(own: Path) -> None:
    check_code(own)
    (own / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["a/b--c.D", null]}}'
    )
    with pytest.raises(BadModel, match=r"does not lie in it \(a/b--c\.py\)"):
        check_code(own)


def test_consent_is_of_the_present_command_and_changes_no_run() -> None:
    plain, trusting = (
        config_from_dict({}),
        config_from_dict({"policy": {"trust_remote_code": True}}),
    )
    assert trusting.model_settings == TRUSTING
    assert config_hash(plain) == config_hash(trusting)
    assert check_resume(trusting, plain) == check_resume(plain, trusting) == []
