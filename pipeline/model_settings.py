"""How a model folder is read: what its files leave open, and engine, learner and PRM must share.

Always: what differs from the defaults is written into the folder as it is published, in `FILE`. So
it is part of the policy's content hash and of its processor's, travels with the folder to every
worker, into the policies trained from it and into what is exported; and a folder of defaults has no
such file and hashes as it always did. Nobody reads a published folder in any other way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import BadModel
from pipeline.hashing import canonical_json

FILE = "mstar.json"

ImageBackend = Literal["pil", "torchvision"]

KEYS = {"image_backend": "policy.image_backend"}
"""What each setting is called in a configuration."""


@dataclass(frozen=True)
class ModelSettings:
    """What a run decides about the reading of its models.

    image_backend: the library that resizes and normalises pictures. Their pixels differ, and so do
    samples and scores.
    """

    image_backend: ImageBackend = "pil"

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults."""
        default = asdict(ModelSettings())
        return {name: value for name, value in asdict(self).items() if value != default[name]}

    def files(self) -> dict[str, bytes]:
        """What is published beside a model's own files, by name."""
        changed = self.changed()
        return {FILE: canonical_json(changed)} if changed else {}


def stored_settings(folder: Path) -> ModelSettings:
    """The settings of a published folder.

    Raises:
        BadModel: its file of settings is not one of this version's.
    """
    file = folder / FILE
    if not file.is_file():
        return ModelSettings()
    try:
        held = json.loads(file.read_bytes())
        unknown = set(held) - {field.name for field in fields(ModelSettings)}
        found = ModelSettings(**held) if not unknown else None
    except (ValueError, TypeError) as error:
        raise BadModel(f"{file} is no file of settings: {error}") from error
    if found is None or not _valid(held):
        raise BadModel(f"{file} says {held}, which this version of the program does not know")
    return found


def _valid(held: Mapping[str, Any]) -> bool:
    return held.get("image_backend", "pil") in ("pil", "torchvision")


def check_settings(folder: Path, settings: ModelSettings) -> None:
    """Refuse to read a folder that was published with settings in another way.

    Raises:
        BadModel: naming the keys and what they have to be.
    """
    if not (folder / FILE).is_file():
        return
    theirs, ours = asdict(stored_settings(folder)), asdict(settings)
    odd = [name for name in ours if ours[name] != theirs[name]]
    if odd:
        says = ", ".join(f"{KEYS[name]}={json.dumps(theirs[name])}" for name in odd)
        raise BadModel(
            f"{folder} was trained with other settings than this run's ({FILE}): set {says}, or "
            f"delete {FILE} there to have the model read in another way than it learned to read"
        )
