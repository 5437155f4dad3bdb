"""Policies on published benchmarks, by their own prompts and rules, without a judge.

    mstar-ray benchmark out/mine --policy base,warmup,final --on mathvista,m3cot,mmstar-r

Greedy responses, through the same engines and store as a run's: what is there already is not
sampled again, so an interrupted benchmark goes on. Two figures for each: the strict one of this
project's grader, where an answer that cannot be read is wrong, and that of the published rule; for
MathVista a third, by lmms-eval's rule for responses that reason first.
Writes <out>/<run>/evaluate/benchmark-<policy>-<name>.json and the tables, benchmark.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.generation.engine_settings import engine_settings
from actors.grading.pool import GradePool
from jobs.evaluate import Chosen, chosen
from jobs.run import state_so_far
from jobs.runtime.benchmark_data import Question, Test, load, named, place_of
from jobs.runtime.benchmark_tables import Found, categories, one_line, overview
from jobs.runtime.cli import command, say, write_json
from jobs.runtime.prepare import out_folder, reading, upload_images
from jobs.runtime.single_round import answers
from jobs.runtime.stored_outputs import StoredOutputs
from jobs.runtime.world import REAL, Parts, check_here, run_store
from pipeline.answer_shapes import SHAPES, stated_answer
from pipeline.config.schema import Config
from pipeline.datasets.dataset import Dataset
from pipeline.errors import BadConfig, BadData
from pipeline.generation.adoption import adoptable
from pipeline.generation.fleet import ShardDone
from pipeline.grading.benchmarks.figures import Judged, figures
from pipeline.grading.benchmarks.item import Benchmark
from pipeline.grading.benchmarks.known import PAPER
from pipeline.grading.benchmarks.reasoning_rule import equal_text, extracted
from pipeline.grading.grade import grader_version
from pipeline.prompts import QUESTION_TEMPLATE
from pipeline.records import Rollout
from pipeline.refs import PolicyRef
from pipeline.responses import ANSWER_HEADING, extract_answer
from pipeline.run.spec import RunSpec
from pipeline.stages.workers import Workers
from pipeline.storage.artifacts import read_rows
from pipeline.storage.models import publish_folder
from pipeline.storage.store import Store


def benchmark(
    config: Config,
    policies: str,
    on: str,
    folder: Path,
    data: Mapping[str, Path],
    *,
    parts: Parts = REAL,
) -> Found:
    """Ask, judge and sum up; what the files hold, by policy and benchmark.

    policies, on: names with commas. folder: where benchmarks lie; data: the place of single ones.

    Raises:
        BadConfig: a policy, a benchmark or its data are not there, or are another's.
    """
    check_here(config)
    store = run_store(config, print)
    config = _own_prompts(config)
    places = [(one, place_of(one, folder, data)) for one in named(on)]
    state = state_so_far(config, store)
    names = [name.strip() for name in policies.split(",") if name.strip()]
    if not names:
        raise BadConfig("--policy: name a policy, or several with commas")
    picked = {name: chosen(state, name, config, store) for name in names}
    tests = [_test(one, path, config, store) for one, path in places]
    out = out_folder(config) / "evaluate"
    found: Found = {}
    for name, policy in picked.items():
        found[name] = _asked_of(name, policy, tests, store, parts)
        write(found[name], name, out)
    titles = {test.benchmark.name: test.benchmark.title for test in tests}
    lines = overview(found, list(titles), PAPER)
    parts_of = categories(found, titles)
    (out / "benchmark.md").write_text("\n".join([*lines, *parts_of]) + "\n", "utf-8")
    for line in lines:
        print(line)
    StoredOutputs(out_folder(config), store, config.run.name).copy()
    return found


def _own_prompts(config: Config) -> Config:
    """Without the run's template and system text: a benchmark brings its own prompt."""
    prompt = config.prompt.model_copy(update={"question": QUESTION_TEMPLATE, "system": ""})
    return config.model_copy(update={"prompt": prompt})


def _test(one: Benchmark, path: Path, config: Config, store: Store) -> Test:
    """A benchmark's questions, said and with their images in the store."""
    pictures = reading(config).embedded
    assert pictures is not None
    test = load(one, path, pictures, config.data.max_image_pixels)
    left = f"; rows that cannot be asked: {test.left_out}" if test.left_out else ""
    twice = test.dataset.duplicates
    left += f"; rows that ask what another asks: {twice}" if twice else ""
    print(f"{one.title}: {len(test.questions)} questions of {path}{left}")
    upload_images(store, test.dataset, (sha for q in test.questions for sha in q.asked.images))
    return test


def _asked_of(
    name: str, policy: Chosen, tests: Sequence[Test], store: Store, parts: Parts
) -> dict[str, dict[str, Any]]:
    """One policy on all benchmarks, with one set of engines."""
    config = policy.config
    queries = {test.benchmark.name: tuple(q.asked for q in test.questions) for test in tests}
    grader = grader_version(SHAPES)
    program = RunSpec(config, queries, engine_settings(config).identity(), grader)
    parts.check_models(config)
    for test in tests:
        split = test.benchmark.name
        one = replace(program, splits={split: queries[split]})
        parts.check_queries(one, test.dataset, print, warmup=False)
    reference = policy.reference or publish_folder(
        store, Path(config.policy.path), settings=config.model_settings
    )
    processes = config.grade.processes or max(2, (os.cpu_count() or 2) // 2)
    found = {}
    images = {sha: file for test in tests for sha, file in test.dataset.image_paths.items()}
    with (
        parts.workers(program, store, Dataset([], images), print) as workers,
        closing(GradePool(processes, config.grade.deadline_s, SHAPES)) as pool,
    ):
        for test in tests:
            rows = _responses(program, test, reference, store, workers)
            judged = judge(test, rows, pool.grade_many)
            if not judged:
                raise BadData(f"{test.benchmark.title}: not one question could be asked")
            found[test.benchmark.name] = figures(test.benchmark, judged) | {
                "policy": {"name": name, "version": reference.version},
                "data": str(test.path),
                "left_out": test.left_out,
                "not_asked": len(test.questions) - len(judged),
            }
            say(f"{name}: {one_line(test.benchmark.title, found[test.benchmark.name])}")
    return found


def _responses(
    program: RunSpec, test: Test, policy: PolicyRef, store: Store, workers: Workers
) -> list[Rollout]:
    """A greedy response to each question; what is in the store already is not sampled again."""
    name = test.benchmark.name
    specs = program.shard_specs(
        f"benchmark/{name}",
        list({query.content_hash: query for query in program.splits[name]}.values()),
        policy,
        program.sampling(1, 0.0),
        shard_queries=program.config.evaluate.shard_queries,
    )
    done = {spec.key: adopted for spec in specs if (adopted := adoptable(store, spec)) is not None}
    asked = [(spec, policy) for spec in specs if spec.key not in done]
    for given in answers(workers, workers.fleet, ShardDone, "generation", asked):
        done[given.key] = given
    rows: list[Rollout] = []
    for spec in specs:
        rows += read_rows(store, done[spec.key].rollout, Rollout)
    return rows


def judge(
    test: Test, rows: Sequence[Rollout], grade_many: Callable[..., Sequence[Any]]
) -> list[Judged]:
    """How the responses are judged, strictly and by the benchmark's rule; in the questions' order.

    A question without a response (it could not be asked) is left out.
    """
    by_query = {row.query: row for row in rows}
    answered = [(q, by_query[h]) for q in test.questions if (h := q.asked.content_hash) in by_query]
    graded = grade_many([(strict_text(row.text), q.ours) for q, row in answered])
    reasoned = _by_reasoning(test, answered, grade_many)
    return [
        Judged(
            item=question.item,
            outcome=result.outcome,
            official=test.benchmark.right(official_text(row.text), question.item),
            truncated=row.finish != "stop",
            reasoning=reasoning,
        )
        for (question, row), result, reasoning in zip(answered, graded, reasoned, strict=True)
    ]


def _by_reasoning(
    test: Test, answered: Sequence[tuple[Question, Rollout]], grade_many: Callable[..., Any]
) -> list[bool] | list[None]:
    """Which responses are right by the rule for those that reason first; below our heading, which
    it does not know, stands what it would find in answer tags."""
    if not test.benchmark.reasoning:
        return [None] * len(answered)
    stated = [extract_answer(row.text) for _, row in answered]
    said = [
        extracted(row.text) if answer is None else answer
        for answer, (_, row) in zip(stated, answered, strict=True)
    ]
    valued = grade_many(
        [(f"{ANSWER_HEADING}\n\n{one}", q.ours) for one, (q, _) in zip(said, answered, strict=True)]
    )
    return [
        equal_text(one, q.item) or (q.item.kind != "choice" and result.outcome == "correct")
        for one, (q, _), result in zip(said, answered, valued, strict=True)
    ]


def strict_text(text: str) -> str:
    """A response as the strict grader reads it: one line without any shape of ours is the answer
    itself, as benchmarks ask for ("answer with the letter")."""
    line = text.strip()
    if "\n" in line or not line or stated_answer(text, SHAPES) is not None:
        return text
    return f"{ANSWER_HEADING}\n\n{line}"


def official_text(text: str) -> str:
    """What a published rule is given: the answer under our heading, which none of them knows, where
    the response has one; else all of it."""
    answer = extract_answer(text)
    return text if answer is None else answer


def write(found: Mapping[str, Any], policy: str, folder: Path) -> None:
    """The figures of a policy as files, one for each benchmark."""
    for name, one in found.items():
        path = folder / f"benchmark-{policy.strip('/').replace('/', '-')}-{name}.json"
        write_json(path, one)


if __name__ == "__main__":
    command("benchmark")
