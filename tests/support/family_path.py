"""One family from its folder to a reloaded policy and a served PRM, through the parts of a run.

`python -m tests.support.family_path FAMILY FOLDER [IMAGE-TOKENS]` makes the tiny model in FOLDER
and writes what was measured there to `figures.json`. A process of its own for each family: two
engines and a learner are all that one should hold. Deviations are the largest of any token (nats)
or step (probability), over responses to prompts with none, one and two images of several sizes.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from actors.generation.engine_settings import EngineSettings
from actors.generation.vllm_engine import VllmEngine
from actors.model.family_checks import check_family
from actors.model.images import ImageCache
from actors.model.processor import Processor, load_processor
from actors.model.prompt_checks import PromptChecks
from actors.model.value_head import HEAD, LIKELIHOOD_KEY, write_headed
from actors.scoring.transformers_scorer import TransformersScorer
from actors.scoring.vllm_scorer import VllmScorer
from actors.training.trainer import Trainer
from pipeline.generation.engine import Sample, SampleRequest
from pipeline.hashing import sha256_hex
from pipeline.model_settings import ModelSettings, stored_settings
from pipeline.prm.step_scores import Excluded, ScoreRequest, Scores
from pipeline.prompts import prompt_hash
from pipeline.query import Query
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings
from tests.support.families import FAMILIES
from tests.support.learning import group_of_one

BFLOAT16_ALONE = {"MiniCPM-V 4.6"}
"""Families that vLLM computes in nothing else on a CPU."""
SHOWN = ((), ((64, 64),), ((96, 64), (64, 64)), ((60, 130),), ((200, 120),), ((40, 40), (40, 40)))
"""Width and height of the images of each prompt."""
TOKENS = 1024
OWN_CODE = {"Idefics3 by code of its own"}
"""Families whose code lies in the folder. vLLM takes its own class: when it takes the folder's, it
changes classes of transformers in its process, and no learner could be beside it."""


def _image(size: tuple[int, int], seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@dataclass
class FamilyPath:
    """What one family's parts say, stage by stage; `figures` fills up.

    folder: of the model; what else is made lies beside it. limit: the most tokens of an image.
    """

    family: str
    folder: Path
    limit: int | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.images: list[tuple[str, ...]] = []
        sizes: dict[str, tuple[int, int]] = {}
        for number, shown in enumerate(SHOWN):
            made = [_image(size, 10 * number + i) for i, size in enumerate(shown)]
            names = tuple(sha256_hex(data) for data in made)
            self.files |= dict(zip(names, made, strict=True))
            sizes |= dict(zip(names, shown, strict=True))
            self.images.append(names)
        self.sizes = sizes

    @property
    def trusted(self) -> bool:
        return self.family in OWN_CODE

    @cached_property
    def learn(self) -> LearnSettings:
        return LearnSettings(
            learning_rate=3e-3,
            batch_size=6,
            micro_batch=4,
            precision="float32",
            trust_remote_code=self.trusted,
        )

    @cached_property
    def processor(self) -> Processor:
        return load_processor(self.folder, trusted=self.trusted)

    @cached_property
    def settings(self) -> EngineSettings:
        return EngineSettings(
            precision="bfloat16" if self.family in BFLOAT16_ALONE else "float32",
            max_model_len=TOKENS,
            max_sequences=16,
            kv_cache_gib=0.1,
            threads=1,
            block_size=None if self.family in BFLOAT16_ALONE else 32,
            trust_remote_code=self.trusted,
        )

    def load(self) -> None:
        """The folder is checked, and prompts that it cannot be asked are left out."""
        check_family(self.processor, self.learn.micro_batch)
        checks = PromptChecks(self.processor, self.sizes, TOKENS)
        kept = []
        for images in self.images:
            query = Query("q", images, "How many are red?", None, "7", "number")
            problem = checks.problem(query, query.question, lambda sha: sha[:8])
            if problem is None:
                kept.append(images)
            else:
                self.figures[f"refused with {len(images)} images"] = problem
        self.images = kept
        self.figures["image tokens"] = {
            f"{size[0]}x{size[1]}": checks._tokens[size]
            for size in sorted(set(self.sizes.values()))
        }

    def requests(self, seed: int) -> list[SampleRequest]:
        """Two of each prompt."""
        return [
            SampleRequest(
                prompt=self.processor.prompt(f"How many of row {n} are red?", len(images)),
                images=images,
                seed=seed + 10 * n + turn,
                temperature=1.0,
                top_p=1.0,
                max_new_tokens=24,
            )
            for n, images in enumerate(self.images)
            for turn in range(2)
        ]

    def sample(self, engine: VllmEngine, seed: int) -> list[tuple[SampleRequest, Sample]]:
        """What the engine samples; its tokens are the processor's, none of them forbidden."""
        requests = self.requests(seed)
        pairs = list(zip(requests, engine.generate(requests), strict=True))
        cache = ImageCache(self.files.__getitem__)
        self.figures["prompts with equal tokens"] = sum(
            sample.prompt_token_ids_P
            == self.processor.input_ids(request.prompt, request.images, cache.get)
            for request, sample in pairs
        )
        self.figures["prompts"] = len(pairs)
        self.figures["responses with forbidden tokens"] = sum(
            self.processor.forbidden_in(sample.token_ids_T) for _, sample in pairs
        )
        return pairs

    def rows(self, pairs: Sequence[tuple[SampleRequest, Sample]]) -> list[TrainRow]:
        return [
            TrainRow(
                request.prompt,
                request.images,
                len(sample.prompt_token_ids_P),
                prompt_hash(sample.prompt_token_ids_P),
                sample.token_ids_T,
            )
            for request, sample in pairs
        ]

    def compare(
        self,
        name: str,
        pairs: Sequence[tuple[SampleRequest, Sample]],
        learned: dict[int, list[float]],
    ) -> None:
        """Log-probabilities of the engine against a learner's, with and without images."""
        for kind, shown in (("text", False), ("images", True)):
            self.figures[f"{name}, {kind}"] = max(
                abs(a - b)
                for index, (request, sample) in enumerate(pairs)
                if bool(request.images) == shown
                for a, b in zip(sample.logprobs_T, learned[index], strict=True)
            )

    def train(self, pairs: Sequence[tuple[SampleRequest, Sample]], made: Path) -> None:
        """Micro-batches of 1 and 4 agree; two epochs are taken, and the policy is published."""
        rows = self.rows(pairs)
        one_row = self.learn.model_copy(update={"micro_batch": 1})
        single = Trainer(one_row, self.folder, self.files.__getitem__)
        alone = single.logprobs(rows, 1.0)
        single.close()
        trainer = Trainer(self.learn, self.folder, self.files.__getitem__)
        together = trainer.logprobs(rows, 1.0)
        self.compare("log-probabilities before", pairs, together)
        self.figures["micro-batch 1 against 4"] = max(
            abs(a - b)
            for index in together
            for a, b in zip(alone[index], together[index], strict=True)
        )
        first = trainer.train(rows, 0).nll_S
        last = trainer.train(rows, 1).nll_S
        self.figures["loss before and after"] = [sum(first), sum(last)]
        trainer.publish(made)
        trainer.close()

    def score(self, pairs: Sequence[tuple[SampleRequest, Sample]], policy: Path) -> None:
        """Step scores of vLLM against transformers', with a head that sees only the hidden state
        and with one that sees the log-likelihood too, loaded into the running engine."""
        requests = [
            ScoreRequest(request.prompt, request.images, sample.token_ids_T, (third, 2 * third))
            for request, sample in pairs
            if (third := len(sample.token_ids_T) // 3) > 0
        ]
        served = VllmScorer(self.settings, ImageCache(self.files.__getitem__).get)
        for name, weight in (("PRM scores", None), ("PRM scores with likelihood", 0.01)):
            prm = with_head(policy, policy.with_name(name.replace(" ", "-")), weight)
            served.load_policy(prm)
            reference = TransformersScorer(
                self.files.__getitem__, max_model_len=TOKENS, trusted=self.trusted
            )
            reference.load_policy(prm)
            found = [*zip(requests, served.score(requests), reference.score(requests), strict=True)]
            for kind, shown in (("text", False), ("images", True)):
                self.figures[f"{name}, {kind}"] = max(
                    abs(a - b)
                    for request, ours, theirs in found
                    if bool(request.images) == shown
                    for a, b in zip(_scores(ours), _scores(theirs), strict=True)
                )
            reference.close()
        spread = [score for _, ours, _ in found for score in _scores(ours)]
        self.figures["PRM scores from and to"] = [min(spread), max(spread)]
        served.close()

    def run(self) -> dict[str, Any]:
        """All stages in their order."""
        FAMILIES[self.family](self.folder)
        if self.limit is not None:
            limited = ModelSettings(max_image_tokens=self.limit).besides(self.folder)
            for name, data in limited.items():
                (self.folder / name).write_bytes(data)
        self.load()
        engine = VllmEngine(self.settings, ImageCache(self.files.__getitem__).get)
        engine.load_policy(self.folder)
        before = self.sample(engine, 0)
        published = self.folder.with_name("published")
        with group_of_one(self.folder.parent):
            self.train(before, published)
            engine.load_policy(published)
            after = self.sample(engine, 1000)
            trained = Trainer(self.learn, published, self.files.__getitem__)
            self.compare("log-probabilities after", after, trained.logprobs(self.rows(after), 1.0))
            trained.close()
        engine.close()
        self.score(after, published)
        self.figures["precision of the engine"] = self.settings.precision
        self.figures["image backend"] = stored_settings(self.folder).image_backend
        return self.figures


def _scores(found: Scores | Excluded) -> Scores:
    assert not isinstance(found, str), found
    return found


def with_head(policy: Path, folder: Path, likelihood: float | None) -> Path:
    """The policy with a head of noise, which sees the log-likelihood too or does not."""
    made = write_headed(policy, folder, likelihood=likelihood is not None)
    if likelihood is not None:
        config = json.loads((made / "config.json").read_text("utf-8"))
        config[LIKELIHOOD_KEY] = likelihood
        (made / "config.json").write_text(json.dumps(config), "utf-8")
    tensors = load_file(made / "model.safetensors")
    tensors[HEAD] = torch.randn(tensors[HEAD].shape, generator=torch.Generator().manual_seed(3)) / 8
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    return made


def main(family: str, folder: Path, limit: int | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    random.seed(0)
    figures = FamilyPath(family, folder / "model", limit).run()
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
