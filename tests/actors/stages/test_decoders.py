"""Decoders of stored policies: no weights are fetched for them."""

from __future__ import annotations

from pathlib import Path

from actors.model.processor import load_processor
from actors.stages.decoders import PolicyDecoders
from pipeline.storage.models import publish_folder
from pipeline.storage.store import open_store
from pipeline.storage.tree_cache import TreeCache

BASE = Path(__file__).resolve().parents[3] / "assets" / "digits-base"


def test_a_stored_policys_tokens_become_text_without_its_weights(tmp_path: Path) -> None:
    store = open_store("memory://")
    policy = publish_folder(store, BASE)
    decode = PolicyDecoders(store, TreeCache(tmp_path))(policy)
    ids = range(5, 90)
    assert decode(ids) == load_processor(BASE).decode(ids)
    assert not list(tmp_path.rglob("*.safetensors"))
