"""How a model folder is read: what its files leave open, and engine, learner and PRM must share.

Always: what differs from the defaults is written into the folder as it is published, in `FILE`. So
it is part of the policy's content hash and of its processor's, travels with the folder to every
worker, into the policies trained from it and into what is exported; and a folder of defaults has no
such file and hashes as it always did. Nobody reads a published folder in any other way.

Code that lies in a folder is run where both agree: the folder says that it was published as one
whose code is run, and the settings of the present command say that it may be. No folder, store or
ledger consents for anybody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import BadModel
from pipeline.hashing import canonical_json
from pipeline.image_limits import limited_files

FILE = "mstar.json"

ImageBackend = Literal["pil", "torchvision"]

KEYS = {
    "image_backend": "policy.image_backend",
    "trust_remote_code": "policy.trust_remote_code",
    "max_image_tokens": "data.max_image_tokens",
}
"""What each setting is called in a configuration."""

_CONFIGS = (
    "config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True)
class ModelSettings:
    """What a run decides about the reading of its models.

    image_backend: the library that resizes and normalises pictures. Their pixels differ, and so do
    samples and scores.
    trust_remote_code: whether the classes are taken that a folder's own code defines. Nothing else
    of a folder is run, and of a folder without code this says nothing.
    max_image_tokens: the most tokens of an image, which is written into the processor's own files;
    None: what these say.
    """

    image_backend: ImageBackend = "pil"
    trust_remote_code: bool = False
    max_image_tokens: int | None = None

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults."""
        default = asdict(ModelSettings())
        return {name: value for name, value in asdict(self).items() if value != default[name]}

    def besides(self, folder: Path) -> dict[str, bytes]:
        """What a folder is published with besides its own files, or in place of them, by name.

        Raises:
            BadModel: its family has no limit on an image's tokens, or none that low.
        """
        limit = self.max_image_tokens
        limited = {} if limit is None else limited_files(folder, limit)
        return self.of(folder).files() | limited

    def files(self) -> dict[str, bytes]:
        """The file of settings that are not the defaults, by name."""
        changed = self.changed()
        return {FILE: canonical_json(changed)} if changed else {}

    def of(self, folder: Path) -> ModelSettings:
        """Those of them that mean something for a folder."""
        return self if own_code(folder) else replace(self, trust_remote_code=False)


def stored_settings(folder: Path) -> ModelSettings:
    """The settings of a published folder.

    Raises:
        BadModel: its file of settings is not one of this version's.
    """
    file = folder / FILE
    return parsed(file.read_bytes(), str(file)) if file.is_file() else ModelSettings()


def parsed(data: bytes, what: str) -> ModelSettings:
    """The settings in `data`, the bytes of such a file; `what` names it. Raises as above."""
    try:
        held = json.loads(data)
        unknown = set(held) - {field.name for field in fields(ModelSettings)}
        found = ModelSettings(**held) if not unknown else None
    except (ValueError, TypeError) as error:
        raise BadModel(f"{what} is no file of settings: {error}") from error
    if found is None or not _valid(held):
        raise BadModel(f"{what} says {held}, which this version of the program does not know")
    return found


def _valid(held: Mapping[str, Any]) -> bool:
    limit = held.get("max_image_tokens")
    return (
        held.get("image_backend", "pil") in ("pil", "torchvision")
        and isinstance(held.get("trust_remote_code", False), bool)
        and (limit is None or (type(limit) is int and limit > 0))
    )


def check_settings(folder: Path, settings: ModelSettings) -> None:
    """Refuse to read a folder that was published with settings in another way.

    Raises:
        BadModel: naming the keys and what they have to be.
    """
    if not (folder / FILE).is_file():
        return
    theirs, ours = asdict(stored_settings(folder)), asdict(settings.of(folder))
    if theirs["trust_remote_code"] and not ours["trust_remote_code"]:
        raise not_trusted(str(folder), own_code(folder))
    odd = [name for name in ours if ours[name] != theirs[name]]
    if odd:
        says = ", ".join(f"{KEYS[name]}={json.dumps(theirs[name])}" for name in odd)
        raise BadModel(
            f"{folder} was trained with other settings than this run's ({FILE}): set {says}, or "
            f"delete {FILE} there to have the model read in another way than it learned to read"
        )


def published_settings(folder: Path, trusted: bool) -> ModelSettings:
    """How a published folder is read. trusted: whether the settings of the present command let code
    of a model be run.

    Raises:
        BadModel: it was published as one whose code is run, and that is not consented to here.
    """
    settings = stored_settings(folder)
    if settings.trust_remote_code and not trusted:
        raise not_trusted(str(folder), own_code(folder))
    return settings


def not_trusted(what: str, code: Sequence[str]) -> BadModel:
    """The error that a model brings code which nobody has consented to."""
    return BadModel(
        f"{what} brings code of its own ({', '.join(code)}), which is not run unless you say so: "
        "read these files, and if you trust them set policy.trust_remote_code=true (of audit and "
        "export labels: --trust-remote-code)"
    )


def own_code(folder: Path) -> list[str]:
    """The code that a folder's files name as its own classes (`auto_map`), as they name it; code
    that lies elsewhere has the repository before it.

    Raises:
        BadModel: a file of its configuration cannot be read.
    """
    named: set[str] = set()
    for name in _CONFIGS:
        file = folder / name
        if file.is_file():
            try:
                named |= _named(json.loads(file.read_text("utf-8")))
            except ValueError as error:
                raise BadModel(f"{file} is not JSON: {error}") from error
    return sorted(named)


def _named(config: object) -> set[str]:
    """The code files in every `auto_map` of a configuration, also of its parts."""
    if not isinstance(config, dict):
        return set()
    found: set[str] = set()
    classes = config.get("auto_map") or {}
    for value in classes.values() if isinstance(classes, dict) else [classes]:
        listed = value if isinstance(value, list | tuple) else [value]
        found |= {one.rpartition(".")[0] + ".py" for one in listed if isinstance(one, str)}
    return found.union(*(_named(part) for key, part in config.items() if key != "auto_map"))


def code_files(folder: Path) -> list[str]:
    """The files of code in a folder, by name: those that are named, and what they import."""
    return sorted(file.name for file in folder.glob("*.py"))


def check_code(folder: Path) -> None:
    """Refuse code that would be run and is not in the folder: it would be in no hash.

    Raises:
        BadModel: naming the files.
    """
    missing = [name for name in own_code(folder) if not (folder / name).is_file()]
    if missing:
        raise BadModel(
            f"{folder} names code that does not lie in it ({', '.join(missing)}), and only what "
            "is in a policy's folder is hashed and published with it: put these files there, and "
            "name them in auto_map without a repository"
        )
