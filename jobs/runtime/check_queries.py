"""The queries of a run against the policy's own processor, before Ray or any engine starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from actors.generation.engine_settings import engine_settings
from actors.model.processor import Processor, load_processor
from actors.model.prompt_checks import TOO_LONG, PromptChecks
from pipeline.config.schema import Config
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.files import Place, bad_rows
from pipeline.prompts import TEMPLATE_TIME, PromptKind
from pipeline.query import Query
from pipeline.run.spec import RunSpec

Say = Callable[[str], None]
_LISTED = 20


def check_queries(program: RunSpec, dataset: Dataset, say: Say, *, warmup: bool = True) -> None:
    """Refuse queries that the policy's processor refuses, unless so many may be left out.

    warmup: whether a warm-up and a control come besides, which ask with the gold answer.

    Raises:
        BadRows: naming the row, the image and why.
    """
    config = program.config
    folder = Path(config.warmup.checkpoint or config.policy.path)
    processor = load_processor(folder, settings=config.model_settings)
    if processor.writes_the_time:
        say(
            f"the chat template of {folder} writes the date: in every prompt it is "
            f"{TEMPLATE_TIME:%d %B %Y}, so that the run can go on on another day"
        )
    asked = list(program.by_hash.values())
    told = set(program.warmup_queries) if warmup else set[str]()
    if warmup and config.evolve.control:
        told.update(program.control_queries(config.evolve.iterations))
    checks = _checks(config, processor, asked, dataset, say)
    bad: dict[Place, list[str]] = {}
    for number, query in enumerate(asked, start=1):
        kinds: list[PromptKind] = ["question"]
        if query.content_hash in told:
            kinds.append("warmup")
        problem = _problem(checks, config, query, kinds, dataset)
        if problem is not None:
            place = dataset.places.get(query.query_id, Place(0, number, query.query_id, ""))
            bad.setdefault(place, []).append(problem)
    allowed = config.generate.max_bad_queries
    count = f"{len(bad)} of {len(asked)} queries cannot be asked of {folder}, and"
    if len(bad) > allowed:
        head = f"{count} generate.max_bad_queries = {allowed}; nothing was started{_too_long(bad)}"
        raise bad_rows(head, bad, bad, _LISTED)
    if bad:
        say(f"{count} {allowed} may be left out (generate.max_bad_queries){_too_long(bad)}")
    for place in sorted(bad):
        say(f"will be left out: {place.text}: {'; '.join(bad[place])}")


def _too_long(bad: Mapping[Place, Sequence[str]]) -> str:
    """How many of them do not fit the context, and what makes prompts shorter."""
    count = sum(any(TOO_LONG in reason for reason in reasons) for reasons in bad.values())
    shorter = "raise it, or have images take fewer tokens (data.max_image_tokens)"
    return f"; prompts that do not fit generate.max_model_len: {count} ({shorter})" if count else ""


def _problem(
    checks: PromptChecks,
    config: Config,
    query: Query,
    kinds: Iterable[PromptKind],
    dataset: Dataset,
) -> str | None:
    """Why a query cannot be asked in one of the kinds of prompt."""
    for kind in kinds:
        text = config.prompt.templates.text(query, kind)
        problem = checks.problem(query, text, dataset.image_name)
        if problem is not None:
            return (
                f"as the warm-up asks (prompt.warmup): {problem}" if kind == "warmup" else problem
            )
    return None


def _checks(
    config: Config, processor: Processor, queries: list[Query], dataset: Dataset, say: Say
) -> PromptChecks:
    shown = {sha for query in queries for sha in query.images}
    sizes = {sha: size for sha, size in dataset.image_sizes.items() if sha in shown}
    checks = PromptChecks(processor, sizes, engine_settings(config).max_model_len)
    if checks.untried:
        say(
            f"{checks.untried:,} of {len(set(sizes.values())):,} sizes of images were not tried "
            "with the policy's processor; those furthest from a square, the largest and the "
            "smallest were"
        )
    return checks
