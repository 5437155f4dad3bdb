"""A folder on the Hugging Face Hub: `--push-to-hub ORG/NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import BadConfig, UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def hub(repo: str) -> HfApi:
    """The Hub's interface, before anything is made.

    Raises:
        BadConfig: the name is none, or there is no token.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise BadConfig(f"--push-to-hub {repo}: {error}") from error
    if get_token() is None:
        raise BadConfig(
            f"--push-to-hub {repo} needs a token that may write: `hf auth login`, or HF_TOKEN in "
            "the environment"
        )
    return HfApi()


def push(api: HfApi, folder: Path, repo: str) -> str:
    """Upload a model folder into a repository, which is made private if it is new; its address.

    Raises:
        UserError: the Hub refuses it or is not there; the folder stays.
    """
    from httpx import HTTPError

    try:
        api.create_repo(repo, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="A policy of mstar-ray"
        )
    except (HTTPError, OSError) as error:
        raise UserError(
            f"{folder} was written, and the Hub did not take it as {repo}: {error}"
        ) from error
    return str(commit.repo_url)
