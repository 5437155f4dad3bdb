"""What a run will cost, before GPUs are spent: `mstar-ray plan --recipe cluster`.

Rates are those of a run that is measured (any run, also one that has just begun), or defaults that
say so. Nothing is started and nothing is written but the file that --json names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from actors.model.processor import tensor_shapes
from jobs.runtime.cli import command, say, write_json
from jobs.runtime.options import pairs
from jobs.runtime.prepare import DIGITS, load_data
from jobs.runtime.stores import find_run
from pipeline.config.load import changed_config, stored_config
from pipeline.config.schema import Config
from pipeline.errors import BadConfig
from pipeline.generation.slices import labelled
from pipeline.plan.forecast import Forecast, Sizes, gpus_held
from pipeline.plan.gpus import Gpu, gpu_named
from pipeline.plan.measured import MeasuredRun, first_of_kind, job_sums, set_sums, stored_bytes
from pipeline.plan.memory import check_memory, needs_of
from pipeline.plan.models import FAMILIES, ModelShape, family_of, shape_of
from pipeline.plan.rates import default_rates, measured_rates
from pipeline.plan.text import beside_lines, comparison_table, plan_json, plan_lines
from pipeline.records import Rollout
from pipeline.reports.summary import stage_seconds
from pipeline.reports.tables import text_table
from pipeline.storage.artifacts import get_verified
from pipeline.storage.parquet import from_parquet
from pipeline.storage.store import Store


@dataclass(frozen=True)
class Asked:
    """What a plan is asked for besides the recipe.

    gpu: name of the GPU that roles on GPUs have. usd_h: price of one and hour; None: the table's.
    queries: labelled queries by split, where the data is not here. compare: settings with several
    values each, `section.key=a,b`.
    """

    gpu: str = "H100-80GB"
    usd_h: float | None = None
    queries: Mapping[str, int] | None = None
    compare: Sequence[str] = ()


def plan(
    config: Config,
    measured: MeasuredRun | None,
    asked: Asked,
    to: Path | None = None,
    out: Callable[[str], None] = print,
) -> None:
    """Say what a run of this configuration takes; `to`: also written there as JSON.

    Raises:
        BadConfig: a role cannot fit its GPU, or what has to be known is not.
    """
    gpu = gpu_named(asked.gpu) if sum(gpus_held(config).values()) else None
    usd_h = None if gpu is None else (gpu.usd_h if asked.usd_h is None else asked.usd_h)
    forecast = forecast_of(config, measured, gpu, asked.queries or {})
    prompt = forecast.rates.responses["question"].prompt_tokens
    needs = [] if gpu is None else list(needs_of(config, forecast.shape, gpu, prompt))
    for line in plan_lines(forecast, needs, usd_h):
        out(line)
    if measured is not None and stored_config(measured.config) == config:
        out("\nbeside the run:")
        for line in beside_lines(forecast, measured):
            out(line)
    if asked.compare:
        plans = [(config, "as it is"), *_compared(config, asked.compare)]
        rows = [
            (name, forecast_of(one, measured, gpu, asked.queries or {}, forecast))
            for one, name in plans
        ]
        out("\n" + text_table(comparison_table(rows, usd_h)))
    if to is not None:
        write_json(to, plan_json(forecast, needs, measured))
    if gpu is not None:
        check_memory(needs, gpu)


def forecast_of(
    config: Config,
    measured: MeasuredRun | None,
    gpu: Gpu | None,
    queries: Mapping[str, int],
    like: Forecast | None = None,
) -> Forecast:
    """A configuration's forecast. like: one whose model and data are the same."""
    shape = model_shape(config) if like is None else like.shape
    sizes = sizes_of(config, measured, queries) if like is None else like.sizes
    rates = default_rates(config, shape, gpu)
    if measured is not None:
        rates = measured_rates(measured, config, rates)
    return Forecast(config, sizes, rates, shape, gpu)


def _compared(config: Config, compare: Sequence[str]) -> Iterator[tuple[Config, str]]:
    """The configurations of every combination of the values."""
    given = pairs("--compare", compare, "section.key=VALUE,VALUE")
    axes = [[f"{key}={value}" for value in values.split(",")] for key, values in given.items()]
    for changes in product(*axes):
        # Every engine needs a shard: the look-ahead follows, unless it is compared itself.
        yield changed_config(_fed(config, changes), changes), " ".join(changes)


def _fed(config: Config, changes: Sequence[str]) -> Config:
    """The look-ahead grown to the engines compared, which a check wants."""
    engines = [int(one.partition("=")[2]) for one in changes if one.startswith("generate.engines=")]
    most = max([config.generate.lookahead, *engines])
    return changed_config(config, [f"generate.lookahead={most}"])


# --- model and data ------------------------------------------------------------------------------


def model_shape(config: Config) -> ModelShape:
    """The policy's shape: of its folder, or of the family that the folder's name says.

    Raises:
        BadConfig: neither is known.
    """
    folder = Path(config.policy.path)
    if (folder / "config.json").is_file():
        tensors = {
            name: shape
            for file in sorted(folder.glob("*.safetensors"))
            for name, shape in tensor_shapes(file).items()
        }
        return shape_of(str(folder), json.loads((folder / "config.json").read_text()), tensors)
    family = family_of(config.policy.path)
    if family is None:
        raise BadConfig(
            f"policy.path = {config.policy.path} is not on this machine, and its name says none of "
            f"the families in the table ({', '.join(FAMILIES)}): give the folder, or one of these "
            "names, with --set policy.path=..."
        )
    return family


def sizes_of(config: Config, measured: MeasuredRun | None, queries: Mapping[str, int]) -> Sizes:
    """How many labelled queries the run uses: as given, of the run that is measured, of the data,
    or the recipe's own limits where the data is not here.

    Raises:
        BadConfig: nothing says how many.
    """
    data = config.data
    counts = dict(queries)
    images, marked = None, 0
    if measured is not None and stored_config(measured.config).data.path == data.path:
        counts = {**measured.sizes, **counts}
        images = measured.images or None
    elif data.path == DIGITS or Path(data.path).exists():
        dataset = load_data(config, say)
        names = {query.split for query in dataset.queries}
        counts = {**{name: len(labelled(dataset.split(name))) for name in names}, **counts}
        marked = sum(query.unlabelled for query in dataset.split(data.train))
    pool = _count(counts, data.train, data.train_queries, "data.train_queries", config)
    validation = _count(
        counts, data.validation, data.validation_queries, "data.validation_queries", config
    )
    known = [name for name in data.test if name in counts or not counts]
    tests = tuple(
        _count(counts, name, data.test_queries, "data.test_queries", config) for name in known
    )
    hidden = math.floor(data.unlabelled_share * pool)
    unlabelled = min(marked + hidden, config.unlabelled.queries or marked + hidden)
    return Sizes(
        pool - hidden,
        validation,
        tests,
        images or pool + validation + sum(tests),
        unlabelled if config.unlabelled.use != "none" else 0,
    )


def counts_of(queries: Sequence[str]) -> dict[str, int]:
    """Counts by split, from `SPLIT=N`.

    Raises:
        BadConfig: one is written otherwise.
    """
    found = {}
    for text in queries:
        split, _, count = text.partition("=")
        if not split or not count.isdecimal() or not int(count):
            raise BadConfig(f"--queries {text}: write it as SPLIT=N, such as train=180000")
        found[split] = int(count)
    return found


def _count(
    counts: Mapping[str, int], split: str, limit: int | None, key: str, config: Config
) -> int:
    found = [count for count in (counts.get(split), limit) if count is not None]
    if not found:
        raise BadConfig(
            f"data.path = {config.data.path} is not on this machine, so say how many labelled "
            f"queries its split {split!r} has: --queries {split}=N (or set {key})"
        )
    return min(found)


# --- a run that is measured ----------------------------------------------------------------------


def measure(place: str, run: str | None = None) -> MeasuredRun:
    """The sums of a run, from its store: its ledger, the sizes of its objects, and of each kind of
    shards the prompt lengths of one.

    Raises:
        BadConfig: there is no such run, or it has not finished one set of shards.
    """
    stored = find_run(place, run)
    store, events, state = stored.store, stored.wires, stored.state
    sizes = {entry.path: entry.size_bytes for entry in store.entries()}
    sets = set_sums(events, sizes)
    if not sets:
        raise BadConfig(f"run {stored.name} in {store.url} has not finished one set of shards yet")
    shards = {event["purpose"]: event["rollout"] for event in reversed(events)
              if event["type"] == "shard_accepted"}  # fmt: skip
    return MeasuredRun(
        run=stored.name,
        config=events[0]["config"],
        sizes={split: len(part) for split, part in stored.spec.splits.items()},
        sets=tuple(sets),
        jobs=tuple(job_sums(events)),
        labels=state.labels,
        stage_s=stage_seconds(state),
        prompt_tokens={
            kind: _prompt_tokens(store, shards[sums.purpose])
            for kind, sums in first_of_kind(sets).items()
        },
        stored=stored_bytes(sizes),
        images=sum(path.startswith("images/") for path in sizes),
        events=len(events),
    )


def _prompt_tokens(store: Store, path: str) -> float:
    """Mean tokens of a prompt in a shard."""
    rows = from_parquet(get_verified(store, path, quarantine=False), Rollout)
    return sum(row.prompt_tokens for row in rows) / max(1, len(rows))


if __name__ == "__main__":
    command("plan")
