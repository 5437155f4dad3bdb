"""Policies in the store: immutable, complete model folders, named by what they hold.

A folder is read and hashed as a whole (weights, config, processor, tokenizer, chat template), so
two names of one version are one policy, and a policy's version also says how prompts become tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import BadData, BadModel
from pipeline.model_settings import FILE, ModelSettings, check_settings, not_trusted, parsed
from pipeline.refs import PolicyRef
from pipeline.storage.store import Store
from pipeline.storage.trees import Beat, put_content_tree, quiet, read_manifest

STAGE, KEY = "policies", "model"


def publish_folder(
    store: Store, folder: Path, beat: Beat = quiet, settings: ModelSettings | None = None
) -> PolicyRef:
    """Put a model folder into the store; equal folders give equal references.

    settings: how a folder of the user's is read; None: a folder of ours, which holds them.

    Raises:
        BadModel: there is no such folder, it is empty, or it was trained with other settings.
    """
    besides = {}
    if settings is not None:
        check_settings(folder, settings)
        besides = settings.besides(folder)
    try:
        return policy_at(put_content_tree(store, STAGE, KEY, folder, beat, besides=besides))
    except BadData as error:
        raise BadModel(f"{folder} cannot be used as a model: {error}") from error


def check_trusted(store: Store, policies: Iterable[PolicyRef], trusted: bool) -> None:
    """Refuse stored models whose own code is run where the settings of the present command do not
    let it; told without fetching them.

    Raises:
        BadModel: naming the policy and the files of its code.
    """
    if trusted:
        return
    for policy in policies:
        files = [file.path for file in read_manifest(store, policy.path).files]
        where = f"{policy.path}/{FILE}"
        if FILE in files and parsed(store.get(where), f"{store.url}: {where}").trust_remote_code:
            code = [path for path in files if path.endswith(".py")]
            raise not_trusted(f"{policy.version} in {store.url}", code)


def policy_at(path: str) -> PolicyRef:
    """The policy stored under a content-addressed prefix."""
    return PolicyRef(version=f"policy-{path.rsplit('/', 1)[-1][:16]}", path=path)
