"""Is there something to learn in `digits`? What a policy can and cannot do, with the checker.

    python -m jobs.digits.study --policy assets/digits-base --part base
    python -m jobs.digits.study --policy WARMUP --out out/study

base: single digits on held-out scans, and the composed questions. headroom: Pass@K, true processes
and choice on the test splits. labels: how sharp Monte-Carlo step values are. One vLLM, no Ray; a
warm-up policy is the one that a run has trained.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from actors.generation.engine_settings import EngineSettings
from actors.generation.vllm_engine import VllmEngine
from actors.model.images import ImageCache
from actors.model.processor import Processor, load_processor
from jobs.digits.base_model import MAX_POSITIONS
from jobs.runtime.cli import write_json
from pipeline.generation.engine import Sample, SampleRequest
from pipeline.generation.shards import sample_seed
from pipeline.hashing import sha256_hex
from pipeline.metrics.accuracy import blind_guesses
from pipeline.metrics.intervals import proportion
from pipeline.prompts import question_text
from pipeline.query import Query
from pipeline.responses import step_ends
from pipeline.tasks.digits import lessons
from pipeline.tasks.digits.build import SCANS_SEED, build
from pipeline.tasks.digits.measure import Judged, StepValue, headroom_table, judge, label_table
from pipeline.tasks.digits.scenes import draw_pixels, scans_by_split, to_png

SIZES = {"train": 4000, "validation": 500, "test": 1080, "ood": 1000}

SAMPLES, LABELLED_SAMPLES, COMPLETIONS = 16, 2, 8

MAX_NEW_TOKENS = 96

READINGS = 2000


class Study:
    """The data set, one policy in an engine, and a log. limit: queries of a split at most."""

    def __init__(self, policy: Path, seed: int, limit: int | None = None) -> None:
        self.seed = seed
        self._limit = limit
        self._built = build(0, SIZES)
        self.images = dict(self._built.images)
        self.processor: Processor = load_processor(policy)
        settings = EngineSettings(precision="float32", max_model_len=MAX_POSITIONS)
        self.engine = VllmEngine(settings, ImageCache(self.images.__getitem__).get)
        self.engine.load_policy(policy)
        self._started = time.monotonic()

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self._started:6.0f} s  {line}", flush=True)

    def split(self, name: str) -> list[Query]:
        return [query for query in self._built.queries if query.split == name][: self._limit]

    def prompt(self, query: Query) -> str:
        return self.processor.prompt(question_text(query), len(query.images))

    def sample(
        self, queries: Sequence[Query], k: int, temperature: float
    ) -> list[tuple[Sample, ...]]:
        """k samples of each query."""
        return self.complete([(query, ()) for query in queries], k, temperature)

    def complete(
        self, prefixes: Sequence[tuple[Query, tuple[int, ...]]], k: int, temperature: float = 1.0
    ) -> list[tuple[Sample, ...]]:
        """k continuations of each prefix of sampled ids; the engine's text includes the prefix."""
        requests = [
            SampleRequest(
                self.prompt(query),
                query.images,
                seed=sample_seed(self.seed, f"study/{ids}", query.content_hash, i),
                temperature=temperature,
                max_new_tokens=MAX_NEW_TOKENS,
                prefix_token_ids=ids,
            )
            for query, ids in prefixes
            for i in range(k)
        ]
        samples = self.engine.generate(requests)
        return [tuple(samples[i * k : (i + 1) * k]) for i in range(len(prefixes))]

    def judge(self, query: Query, sample: Sample) -> Judged:
        truth = self._built.truth[query.query_id]
        return judge(sample.text, sample.finish == "stop", query, truth)

    def greedy(self, queries: Sequence[Query]) -> list[Judged]:
        samples = self.sample(queries, 1, 0.0)
        return [self.judge(q, sample) for q, (sample,) in zip(queries, samples, strict=True)]


def measure_base(study: Study) -> dict[str, Any]:
    """Single digits on held-out scans, and the composed families without a gold answer."""
    rng = random.Random(f"study-{study.seed}")
    splits = scans_by_split(SCANS_SEED)
    scans = splits["validation"] + splits["test"]
    made = [lessons.read_one(scans, rng) for _ in range(READINGS)]
    requests = []
    for lesson in made:
        assert lesson.scene is not None
        png = to_png(draw_pixels(lesson.scene, rng))
        study.images[sha256_hex(png)] = png
        prompt = study.processor.prompt(lesson.prompt, 1)
        requests.append(SampleRequest(prompt, (sha256_hex(png),), 0, 0.0, max_new_tokens=12))
    hits: dict[str, list[bool]] = {"grid": [], "row": []}
    for sample, lesson in zip(study.engine.generate(requests), made, strict=True):
        assert lesson.scene is not None
        hits[lesson.scene.layout].append(sample.text == lesson.response)
    test = study.split("test")
    greedy, blind = study.greedy(test), blind_guesses(test)
    return {layout: proportion(right) for layout, right in hits.items()} | {
        "composed": proportion([g.correct for g in greedy]),
        "composed_true": proportion([g.true for g in greedy]),
        "chance": float(np.mean([chance for chance, _ in blind])),
        "majority": float(np.mean([mode for _, mode in blind])),
    }


def measure_headroom(study: Study) -> dict[str, Any]:
    """Greedy, Pass@K and what there is to choose, on both test splits."""
    table = {}
    for split in ("test", "ood"):
        queries = study.split(split)
        samples = study.sample(queries, SAMPLES, 1.0)
        judged = [
            [study.judge(q, one) for one in row] for q, row in zip(queries, samples, strict=True)
        ]
        table[split] = headroom_table(queries, study.greedy(queries), judged)
    return table


def measure_labels(study: Study) -> dict[str, Any]:
    """Values of step prefixes, as sampled ids, up to the first false step of each response."""
    queries = study.split("validation")
    prefixes: list[tuple[int, tuple[int, ...], bool]] = []
    for index, samples in enumerate(study.sample(queries, LABELLED_SAMPLES, 1.0)):
        for sample in {one.token_ids_T: one for one in samples}.values():
            judged = study.judge(queries[index], sample)
            first = judged.verdict.first_false
            ends = step_ends(sample.token_ids_T, study.processor.decode) if judged.formatted else []
            for step, end in enumerate(ends):
                if first is None or step <= first:
                    prefixes.append((index, sample.token_ids_T[:end], step == first))
    starts = [(queries[index], ids) for index, ids, _ in prefixes]
    values = []
    for (index, _, false), row in zip(prefixes, study.complete(starts, COMPLETIONS), strict=True):
        value = float(np.mean([study.judge(queries[index], one).correct for one in row]))
        family = queries[index].source.removeprefix("digits/")
        values.append(StepValue(index, family, false, value))
    return label_table(values)


def plain(value: Any) -> Any:
    """Estimates as JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def record(study: Study, out: Path, name: str, value: Any) -> None:
    """Write a part's figures to `<out>/<name>.json`, and print them."""
    facts = {"seed": study.seed, name: plain(value)}
    write_json(out / f"{name}.json", facts)
    study.say(f"{name}: {json.dumps(facts[name])}")


PARTS: dict[str, Callable[[Study], dict[str, Any]]] = {
    "base": measure_base,
    "headroom": measure_headroom,
    "labels": measure_labels,
}


def main(
    policy: Annotated[Path, typer.Option(help="Model folder.")] = Path("assets/digits-base"),
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/study"),
    part: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PARTS)}.")] = None,
    queries: Annotated[int | None, typer.Option(help="Of each split at most, for a try.")] = None,
    seed: int = 0,
) -> None:
    """Measure a policy on the task; each part's figures go to `<out>/<part>.json`."""
    parts = part or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        raise typer.BadParameter(f"{sorted(unknown)} is none of {', '.join(PARTS)}")
    out.mkdir(parents=True, exist_ok=True)
    study = Study(policy, seed, queries)
    for name in parts:
        record(study, out, name, PARTS[name](study))


if __name__ == "__main__":
    typer.run(main)
