"""Is there something to learn in `digits`? The measurements that the task stands on.

    python -m jobs.digits.headroom_study --base assets/digits-base --out out/study

What the base can and cannot do; warm-up on its own gold-conditioned chains until validation is
flat; head-room and choice at that point; how sharp Monte-Carlo step labels are; and whether rounds
of training on right answers raise it, with and without an oracle that keeps true processes (an
oracle reads the truth: never in a run, here only). On plain transformers, one process.
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from actors.reference.policy import Example, PlainPolicy, PlainTrainer
from pipeline.metrics.accuracy import blind_guesses, image_groups
from pipeline.metrics.intervals import Estimate, paired_difference, proportion
from pipeline.prompts import question_text, refers_to_gold, warmup_text
from pipeline.query import Query
from pipeline.responses import step_ends
from pipeline.tasks.digits import lessons
from pipeline.tasks.digits.build import SCANS_SEED, Built, build
from pipeline.tasks.digits.measure import Judged, StepValue, headroom_table, judge, label_table
from pipeline.tasks.digits.scenes import draw_pixels, scans_by_split

K = 16

SIZES = {"train": 4000, "validation": 500, "test": 1080, "ood": 1000}


@dataclass(frozen=True)
class Settings:
    """Sizes and rates of the study; a round is one slice of the pool."""

    warmup_queries: int = 2000
    warmup_samples: int = 4
    warmup_temperature: float = 1.0
    keep: int = 2
    lr: float = 5e-4
    round_lr: float = 5e-4
    batch: int = 32
    max_epochs: int = 20
    rounds: int = 8
    round_queries: int = 1000
    round_samples: int = 8
    labelled_samples: int = 2
    completions: int = 8


class Study:
    """The data, the pictures by query, and a log; a policy is passed to each measurement."""

    def __init__(self, built: Built, seed: int, settings: Settings) -> None:
        self.built, self.seed, self.settings = built, seed, settings
        self.pixels = {sha: _pixels(data) for sha, data in built.images.items()}
        self.started = time.monotonic()

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self.started:6.0f} s  {line}", flush=True)

    def split(self, name: str) -> list[Query]:
        return [query for query in self.built.queries if query.split == name]

    def sample(
        self,
        policy: PlainPolicy,
        queries: Sequence[Query],
        k: int,
        temperature: float,
        text: Callable[[Query], str] = question_text,
    ) -> list[list[tuple[int, ...]]]:
        """Sampled ids, k for each query."""
        prompts = [policy.prompt_ids(text(query), True) for query in queries for _ in range(k)]
        pixels = [self.pixels[query.images[0]] for query in queries for _ in range(k)]
        rows = policy.sample(prompts, pixels, temperature, self.seed)
        return [rows[i * k : (i + 1) * k] for i in range(len(queries))]

    def judge(self, policy: PlainPolicy, query: Query, ids: tuple[int, ...]) -> Judged:
        finished = bool(ids) and ids[-1] == policy.end
        return judge(policy.text(ids), finished, query, self.built.truth[query.query_id])

    def greedy(self, policy: PlainPolicy, queries: Sequence[Query]) -> list[Judged]:
        rows = self.sample(policy, queries, 1, 0.0)
        return [self.judge(policy, q, ids[0]) for q, ids in zip(queries, rows, strict=True)]

    def example(self, policy: PlainPolicy, query: Query, ids: tuple[int, ...]) -> Example:
        prompt = policy.prompt_ids(question_text(query), True)
        return Example(prompt, ids, self.pixels[query.images[0]])

    def keep(
        self,
        policy: PlainPolicy,
        queries: Sequence[Query],
        rows: Sequence[Sequence[tuple[int, ...]]],
        wanted: Callable[[Judged], bool],
    ) -> tuple[list[Example], float]:
        """Up to `keep` distinct wanted responses of each query, and the share of true ones."""
        kept: list[Example] = []
        true: list[bool] = []
        for query, samples in zip(queries, rows, strict=True):
            seen: set[str] = set()
            for ids in samples:
                judged = self.judge(policy, query, ids)
                if len(seen) == self.settings.keep or judged.text in seen or not wanted(judged):
                    continue
                seen.add(judged.text)
                kept.append(self.example(policy, query, ids))
                true.append(judged.true)
        return kept, float(np.mean(true)) if true else 0.0


def _pixels(png: bytes) -> np.ndarray:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)))


def measure_base(study: Study, policy: PlainPolicy) -> dict[str, Any]:
    """Single digits on held-out scans, and the composed families without a gold answer."""
    rng = random.Random(f"study-{study.seed}")
    splits = scans_by_split(SCANS_SEED)
    made = [lessons.read_one(splits["validation"] + splits["test"], rng) for _ in range(2000)]
    prompts = [policy.prompt_ids(lesson.prompt, True) for lesson in made]
    pixels = [draw_pixels(lesson.scene, rng) for lesson in made if lesson.scene]
    rows = policy.sample(prompts, pixels, 0.0, study.seed, max_new_tokens=12)
    right = {"grid": [], "row": []}  # type: dict[str, list[bool]]
    for ids, lesson in zip(rows, made, strict=True):
        if lesson.scene:
            right[lesson.scene.layout].append(policy.text(ids) == lesson.response)
    table: dict[str, Any] = {layout: proportion(hits) for layout, hits in right.items()}
    test = study.split("test")
    greedy = study.greedy(policy, test)
    blind = blind_guesses(test)
    table["composed"] = proportion([g.correct for g in greedy])
    table["composed_true"] = proportion([g.true for g in greedy])
    table["chance"] = float(np.mean([chance for chance, _ in blind]))
    table["majority"] = float(np.mean([mode for _, mode in blind]))
    return table


def warm_up(study: Study, base: PlainPolicy) -> tuple[PlainPolicy, dict[str, Any]]:
    """Chains sampled from the base with the gold answer; trained on without it (paper, 1)."""
    settings, queries = study.settings, study.split("train")[: study.settings.warmup_queries]
    rows = study.sample(
        base, queries, settings.warmup_samples, settings.warmup_temperature, warmup_text
    )
    kept, true = study.keep(
        base, queries, rows, lambda j: j.correct and j.formatted and not refers_to_gold(j.text)
    )
    study.say(f"warm-up: {len(kept)} chains kept, {true:.3f} of them true in every step")
    policy = PlainPolicy(copy.deepcopy(base.model), base.processor)
    trainer = PlainTrainer(policy, settings.lr)
    rng, validation = random.Random(study.seed), study.split("validation")
    history: list[dict[str, float]] = []
    best, best_weights = -1.0, policy.model.state_dict()
    for epoch in range(1, settings.max_epochs + 1):
        loss = trainer.epoch(kept, settings.batch, rng)
        judged = study.greedy(policy, validation)
        greedy = float(np.mean([j.correct for j in judged]))
        history.append({"epoch": epoch, "loss": loss, "greedy": greedy})
        study.say(f"warm-up epoch {epoch}: loss {loss:.3f}, validation greedy {greedy:.3f}")
        if greedy > best:
            best, best_weights = greedy, copy.deepcopy(policy.model.state_dict())
        if epoch >= 4 and max(h["greedy"] for h in history[-2:]) <= best_before(history, 2):
            break
    policy.model.load_state_dict(best_weights)
    return policy, {"kept": len(kept), "kept_true": true, "epochs": history}


def best_before(history: Sequence[dict[str, float]], last: int) -> float:
    """The best validation greedy before the last evaluations."""
    return max(row["greedy"] for row in history[:-last])


def measure_headroom(study: Study, policy: PlainPolicy, split: str) -> dict[str, Any]:
    queries = study.split(split)
    greedy = study.greedy(policy, queries)
    rows = study.sample(policy, queries, K, 1.0)
    samples = [
        [study.judge(policy, q, ids) for ids in r] for q, r in zip(queries, rows, strict=True)
    ]
    return headroom_table(queries, greedy, samples)


def measure_labels(study: Study, policy: PlainPolicy) -> dict[str, Any]:
    """Values of step prefixes, as sampled ids, up to the first false step of each response."""
    queries = study.split("validation")
    rows = study.sample(policy, queries, study.settings.labelled_samples, 1.0)
    prefixes: list[tuple[int, tuple[int, ...], bool]] = []
    for index, (query, samples) in enumerate(zip(queries, rows, strict=True)):
        for ids in dict.fromkeys(samples):
            judged = study.judge(policy, query, ids)
            if not judged.formatted:
                continue
            ends = step_ends(ids, policy.text)
            for step, end in enumerate(ends):
                first_false = judged.verdict.first_false
                if first_false is None or step <= first_false:
                    prefixes.append((index, ids[:end], step == first_false))
    values = _values(study, policy, queries, prefixes)
    return label_table(
        [
            StepValue(index, queries[index].source.removeprefix("digits/"), false, value)
            for (index, _, false), value in zip(prefixes, values, strict=True)
        ]
    )


def _values(
    study: Study,
    policy: PlainPolicy,
    queries: Sequence[Query],
    prefixes: Sequence[tuple[int, tuple[int, ...], bool]],
) -> list[float]:
    n = study.settings.completions
    prompts, pixels = [], []
    for index, prefix, _ in prefixes:
        prompt = policy.prompt_ids(question_text(queries[index]), True)
        prompts += [prompt + prefix] * n
        pixels += [study.pixels[queries[index].images[0]]] * n
    rows = policy.sample(prompts, pixels, 1.0, study.seed + 1)
    values = []
    for i, (index, prefix, _) in enumerate(prefixes):
        judged = [
            study.judge(policy, queries[index], prefix + ids) for ids in rows[i * n : i * n + n]
        ]
        values.append(float(np.mean([j.correct for j in judged])))
    return values


def rounds(study: Study, start: PlainPolicy, oracle: bool) -> dict[str, Any]:
    """Sample, keep correct (and true, with the oracle), train; moments are carried across rounds,
    over which the learning rate falls linearly."""
    settings, pool = study.settings, study.split("train")
    policy = PlainPolicy(copy.deepcopy(start.model), start.processor)
    trainer = PlainTrainer(policy, settings.round_lr)
    rng, validation = random.Random(study.seed), study.split("validation")
    before = study.greedy(policy, validation)
    history: list[dict[str, float]] = []
    best = before
    for number in range(settings.rounds):
        first = number * settings.round_queries % len(pool)
        queries = (pool + pool)[first : first + settings.round_queries]
        rows = study.sample(policy, queries, settings.round_samples, 1.0)
        kept, true = study.keep(
            policy, queries, rows, lambda j: j.correct and (j.true or not oracle)
        )
        loss = trainer.epoch(kept, settings.batch, rng, share=1 - number / settings.rounds)
        judged = study.greedy(policy, validation)
        row = {
            "kept": len(kept), "kept_true": true, "loss": loss,
            "greedy": float(np.mean([j.correct for j in judged])),
            "greedy_true": float(np.mean([j.true for j in judged])),
        }  # fmt: skip
        history.append(row)
        study.say(f"round {number + 1} ({'oracle' if oracle else 'binary'}): {row}")
        best = max(best, judged, key=lambda js: sum(j.correct for j in js))
    gain = paired_difference(
        [float(j.correct) for j in best],
        [float(j.correct) for j in before],
        image_groups(validation),
        seed=study.seed,
    )
    return {"before": proportion([j.correct for j in before]), "rounds": history, "gain": gain}


def plain(value: Any) -> Any:
    """Estimates as JSON."""
    if isinstance(value, Estimate) or (is_dataclass(value) and not isinstance(value, type)):
        return asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


PARTS = ("base", "headroom", "labels", "oracle", "binary")


def main(
    base: Annotated[Path, typer.Option(help="Base model folder.")] = Path("assets/digits-base"),
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/study"),
    warmup: Annotated[Path | None, typer.Option(help="Skip warm-up: take this policy.")] = None,
    part: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PARTS)}.")] = None,
    seed: int = 0,
) -> None:
    """Measure the task; each part's results go to `<out>/<part>.json`."""
    parts = part or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        raise typer.BadParameter(f"{sorted(unknown)} is none of {', '.join(PARTS)}")
    out.mkdir(parents=True, exist_ok=True)
    study = Study(build(0, SIZES), seed, Settings())

    def record(name: str, value: Any) -> None:
        facts = {"seed": seed, "settings": asdict(study.settings), name: plain(value)}
        (out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
        study.say(f"{name}: {json.dumps(facts[name])}")

    policy = PlainPolicy.load(base)
    if "base" in parts:
        record("base", measure_base(study, policy))
    if warmup is None:
        warm, history = warm_up(study, policy)
        warm.save(out / "warmup")
        record("warmup", history)
    else:
        warm = PlainPolicy.load(warmup)
    if "headroom" in parts:
        for split in ("test", "ood"):
            record(f"headroom_{split}", measure_headroom(study, warm, split))
    if "labels" in parts:
        record("labels", measure_labels(study, warm))
    for name in ("oracle", "binary"):
        if name in parts:
            record(name, rounds(study, warm, name == "oracle"))


if __name__ == "__main__":
    typer.run(main)
