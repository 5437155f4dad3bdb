"""Five queries of your data and your model through every stage, before anything is spent:

    mstar-ray validate --recipe digits [--set section.key=value]

Prints what the model is asked and answers, how that is graded, how a process reward model scores it
(with select.reward=prm: your own, prm.path, or else one with the untrained head that the run begins
with), whether engine and processor agree about the tokens and engine and learner about their
log-probabilities, one training step, and what each process holds in memory. The model is your own
warmup.checkpoint, if you give one, else the base. Ends with what was not tried and a verdict, and
exits with 0 only when nothing failed.

The stages are those of the loop, on the same engines, graders and learner (`jobs.runtime.world`);
what they store lies in a folder of its own in the run's store, and what the learner keeps in one
beside the run's own; both are removed at the end.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from actors.generation.engine_settings import engine_settings
from actors.generation.generator import prompt_of
from actors.model.images import StoreImages
from actors.model.processor import Processor, load_processor
from jobs.runtime.cli import command
from jobs.runtime.console import stated_in
from jobs.runtime.memory import PeakMemory
from jobs.runtime.prepare import images_of, load_data, upload_images
from jobs.runtime.scratch import scratch_folder
from jobs.runtime.single_round import OneRound, Sampled, StageFailed
from jobs.runtime.world import REAL, Parts, check_here, run_store
from pipeline.audit.garbage import SCRATCH
from pipeline.config.schema import Config
from pipeline.config.unread import unread
from pipeline.datasets.images import decode
from pipeline.grading.grade import grader_version
from pipeline.prompts import prompt_hash
from pipeline.query import Query
from pipeline.records import Score
from pipeline.refs import PolicyRef
from pipeline.reports.tables import text_table
from pipeline.reports.warnings import data_warnings
from pipeline.run.spec import RunSpec
from pipeline.selection.coverage import Coverage
from pipeline.storage.models import publish_folder
from pipeline.storage.store import open_store
from pipeline.training.job import LearnDone

QUERIES = 5
SHOWN_CHARS = 2000  # of a prompt
UNTRAINED = 1e-6  # furthest from 1/2 that an untrained head may score a step

Say = Callable[[str], None]


def _write_headed(policy: Path, folder: Path, *, likelihood: bool) -> Path:
    from actors.model.value_head import write_headed

    return write_headed(policy, folder, likelihood=likelihood)


@dataclass(frozen=True)
class Models:
    """What is asked of model folders: a policy's processor, and the policy with a head of zeros."""

    processor: Callable[..., Processor] = load_processor
    headed: Callable[..., Path] = _write_headed


REAL_MODELS = Models()


def validate(
    config: Config,
    samples: int,
    say: Say,
    parts: Parts = REAL,
    models: Models = REAL_MODELS,
) -> bool:
    """Whether data, model and machine can do what the configuration describes."""
    check_here(config)
    store = run_store(config, say)
    dataset = load_data(config, say)
    parts.check_models(config)
    whole = RunSpec.of(
        config, dataset, engine_settings(config).identity(), grader_version(config.prompt.shapes)
    )
    parts.check_queries(whole, dataset, say)
    say("; ".join(f"{name}: {len(part)} queries" for name, part in whole.splits.items()))
    train = config.data.train
    program = replace(whole, splits={train: whole.splits[train][:QUERIES]})
    place = f"{store.url}/{SCRATCH}{secrets.token_hex(4)}"
    scratch = open_store(place, config.store.patience_s, say=say)
    verdicts = Verdicts()
    for line in [*unread(config), *data_warnings(whole)]:
        verdicts.doubt(True, line)
    try:
        upload_images(scratch, dataset, images_of(program))
        with (
            PeakMemory() as memory,
            scratch_folder(config) as folder,
            parts.workers(program, scratch, dataset, say) as world,
        ):
            through = Validation(OneRound(program, scratch, world), verdicts, say, folder, models)
            through.run(min(samples, config.generate.samples))
    except StageFailed as failed:
        verdicts.check(False, str(failed))
    finally:
        for path in scratch.list():
            scratch.delete(path)
    _show_memory(memory, say)
    return verdicts.show(say)


@dataclass
class Verdicts:
    """What was found, in order: how it went, and in words."""

    found: list[tuple[str, str]] = field(default_factory=list)

    def check(self, good: bool, words: str) -> None:
        """Something that must hold."""
        self.found.append(("ok" if good else "FAILED", words))

    def doubt(self, true: bool, words: str) -> None:
        """Something that, if true, would stop no run and should be known."""
        if true:
            self.found.append(("doubtful", words))

    def untried(self, words: str) -> None:
        """Something that a run does and this did not."""
        self.found.append(("untried", words))

    def show(self, say: Say) -> bool:
        """Say all of it; whether nothing failed."""
        say("")
        for how, words in self.found:
            say(f"{how:>8}  {words}")
        hows = {how for how, _ in self.found}
        good = "FAILED" not in hows
        doubts = ", but see what is doubtful" if "doubtful" in hows else ""
        say("verdict: " + (f"this can be run{doubts}" if good else "this cannot be run as it is"))
        return good


class Validation:
    """One round of the loop, and what is said and judged of it.

    folder: where models may be made; whoever gave it clears it away.
    """

    def __init__(
        self,
        once: OneRound,
        verdicts: Verdicts,
        say: Say,
        folder: Path,
        models: Models = REAL_MODELS,
    ) -> None:
        self.models = models
        self.once = once
        self.config = once.program.config
        self.verdicts = verdicts
        self.say = say
        self.folder = folder

    def run(self, samples: int) -> None:
        """All stages, as far as they lead.

        Raises:
            StageFailed: one gave no result.
        """
        # A warm-up of one's own is what the loop begins with; any other is still to come.
        folder = Path(self.config.warmup.checkpoint or self.config.policy.path)
        settings = self.config.model_settings
        policy = publish_folder(self.once.store, folder, settings=settings)
        sampling = self.once.program.sampling(samples, self.config.generate.temperature)
        sampled = self.once.sample("question", policy, sampling)
        processor = self.models.processor(folder, settings=settings)
        bad = {one.query for one in sampled.bad}
        asked = [query for query in self.once.queries if query.content_hash not in bad]
        equal = [self._show_query(sampled, query, processor) for query in asked]
        self.verdicts.check(
            bool(equal) and all(equal),
            f"prompt tokens are equal in engine and processor for {sum(equal)} of {len(equal)} "
            "queries",
        )
        self._judge_responses(sampled)
        if self.config.select.reward == "prm" and self.config.prm.path is not None:
            self._score(sampled, Path(self.config.prm.path))
        elif self.config.select.reward == "prm":
            self._score_untrained(sampled, folder)
        if self.config.warmup.checkpoint is None:
            self._warm_up(policy, samples)
        rows = [row for row in sampled.rows if row.finish == "stop"] or sampled.rows
        trained = self.once.train(rows, sampled, policy)
        self._judge_training(trained)
        greedy = replace(sampling, samples=1, temperature=0.0)
        self.once.sample("question", trained.policy, greedy)
        self.verdicts.check(True, "the running engine took the trained policy and answered with it")

    # --- generation and grading ----------------------------------------------------------------

    def _show_query(self, sampled: Sampled, query: Query, processor: Processor) -> bool:
        """Prompt, responses and grades; whether engine and processor mean the same tokens."""
        rows = [row for row in sampled.rows if row.query == query.content_hash]
        grades = {
            grade.sample_index: grade
            for grade in sampled.grades
            if grade.query == query.content_hash
        }
        images = StoreImages(self.once.store)
        self.say(
            f"\n=== query {query.query_id}: {len(query.images)} images, {query.answer_type} answer "
            f"{query.answer!r}"
        )
        prompt = prompt_of(sampled.spec, query, processor)
        ids = processor.input_ids(prompt, query.images, lambda sha: decode(images(sha)))
        same = all(row.prompt_sha256 == prompt_hash(ids) for row in rows)
        self.say(prompt[:SHOWN_CHARS])
        self.say(f"    {len(ids)} prompt tokens, {'equal' if same else 'NOT EQUAL'} in the engine")
        for row in rows:
            grade = grades.get(row.sample_index)
            how = "not graded" if grade is None else f"{grade.outcome}: {grade.extracted!r}"
            self.say(
                f"--- response {row.sample_index}, T = {row.temperature:g}, "
                f"{len(row.token_ids)} tokens, {row.finish}, {how}\n{row.text}"
            )
        return same

    def _judge_responses(self, sampled: Sampled) -> None:
        counts = sampled.coverage
        allowed = self.config.generate.max_bad_queries
        self.verdicts.check(
            len(sampled.bad) <= allowed,
            f"{len(sampled.bad)} of {len(self.once.queries)} queries cannot be used, {allowed} may "
            "be in a run (generate.max_bad_queries)"
            + "".join(f"\n          {one.reason}" for one in sampled.bad),
        )
        own, shapes = self.config.warmup.checkpoint is not None, self.config.prompt.shapes
        how = "ok" if counts.correct else "FAILED" if own else "doubtful"
        without = "" if counts.correct else (
            ": a run samples what it trains on from this policy (warmup.checkpoint)"
            if own
            else ": the warm-up has to teach it"
        )  # fmt: skip
        words = f"{shares(counts, 'responses')}{stated_in(sampled.shapes)}{without}"
        self.verdicts.found.append((how, words))
        self.verdicts.doubt(
            counts.cut == counts.samples,
            "every response was truncated: raise generate.max_new_tokens",
        )
        self.verdicts.doubt(
            counts.unparsed == counts.samples,
            "no response gives its answer where one is read: under '# Answer'"
            f"{', or as ' + ', '.join(shapes) if shapes else ''}. Ask for the format "
            "(prompt.question), or read the shapes that the model gives (prompt.shapes, "
            "docs/own-data.md); else warm-up has to teach it",
        )

    def _score_untrained(self, sampled: Sampled, policy: Path) -> None:
        """Serves what the training of a process reward model begins with: the policy with a head of
        zeros, which gives every step 1/2. Anything else is not the head that was served."""
        headed = self.models.headed(
            policy, self.folder / "untrained-prm", likelihood=self.config.prm.log_likelihood
        )
        scores = self._score(sampled, headed)
        found = [value for one in scores for value in one.step_scores]
        if found:
            worst = max(abs(value - 0.5) for value in found)
            self.verdicts.check(
                worst <= UNTRAINED,
                f"the policy is served with a process reward model's head: {len(found)} steps "
                f"scored; untrained, each is 0.5, and the furthest is {worst:.2g} away",
            )
        self.verdicts.untried(
            "the process reward model's labels (completions from each step of a warm-up policy's "
            "responses), its training and its gate: the run does them after the warm-up, and "
            "`mstar-ray prm` does no more than that"
        )

    def _score(self, sampled: Sampled, folder: Path) -> list[Score]:
        """What a process reward model says of the responses."""
        prm = publish_folder(self.once.store, folder, settings=self.config.model_settings)
        scores, excluded = self.once.score(sampled, prm)
        self.say(f"\n=== scored by {folder}")
        for one in scores:
            query = self.once.program.by_hash[one.query]
            steps = ", ".join(f"{value:.2f}" for value in one.step_scores)
            self.say(
                f"--- query {query.query_id}, response {one.sample_index}: reward "
                f"{one.reward_p:.2f}, steps {steps}"
            )
        without = "".join(f"; {count} not: {reason}" for reason, count in excluded.items())
        rewards = sorted(one.reward_p for one in scores)
        between = f", rewards from {rewards[0]:.2f} to {rewards[-1]:.2f}" if rewards else ""
        self.verdicts.check(
            True, f"the process reward model scored {len(scores)} responses{between}{without}"
        )
        self.verdicts.doubt(
            not scores,
            "no response could be scored: steps end in a blank line, which warm-up teaches",
        )
        return scores

    def _warm_up(self, policy: PolicyRef, samples: int) -> None:
        """Chains of the base that was told the answer."""
        warmup = self.config.warmup
        sampling = self.once.program.sampling(samples, warmup.temperature)
        chains = self.once.sample("warmup", policy, sampling)
        counts = chains.coverage
        for row in chains.rows[:1]:
            query = self.once.program.by_hash[row.query]
            self.say(f"\n=== a warm-up chain of {query.query_id}, told the answer:")
            self.say(f"{chains.spec.templates.text(query, 'warmup')}\n---\n{row.text}")
        without = "" if counts.kept else (
            ": a run that finds none stops there. Look at more of them (--samples), or tell the "
            "base what a chain looks like (prompt.warmup)"
        )  # fmt: skip
        self.verdicts.check(
            counts.kept > 0,
            f"{shares(counts, 'warm-up chains')}{stated_in(chains.shapes)}, "
            f"{counts.leaning} more give the gold answer away; "
            f"{counts.kept} to train on{without}",
        )

    # --- learning ------------------------------------------------------------------------------

    def _judge_training(self, done: LearnDone) -> None:
        allowed = self.config.learn.logprob_tolerance
        if done.logprob_deviation is not None:
            self.verdicts.check(
                done.logprob_deviation <= allowed,
                f"log-probabilities differ by {done.logprob_deviation:.2g} nats a token on average "
                f"between engine and learner; {allowed:g} may be (learn.logprob_tolerance)",
            )
        self.verdicts.check(
            done.steps == 1,
            f"one training step on {done.tokens} tokens: loss {done.loss:.3f}; {done.seconds:.0f} s"
            " with the start of the ranks",
        )


def shares(counts: Coverage, what: str) -> str:
    """How many samples there are, and which shares of them could be read and were correct."""
    all_ = max(1, counts.samples)
    read = counts.samples - counts.unparsed
    return (
        f"{counts.samples} {what}: {100 * read / all_:.0f} % could be read, "
        f"{100 * counts.correct / all_:.0f} % are correct ({counts.correct} correct, "
        f"{counts.wrong} wrong, {counts.unparsed} without a readable answer, {counts.timeout} not "
        f"graded in time; {counts.cut} truncated)"
    )


def _show_memory(memory: PeakMemory, say: Say) -> None:
    held = sorted(memory.by_title.items(), key=lambda item: -item[1])
    rows = [("process on this machine", "MiB at most")]
    rows += [(title, f"{mib:.0f}") for title, mib in held if mib >= 1.0]
    say(f"\n{text_table([*rows, ('all at one time', f'{memory.total:.0f}')])}")


if __name__ == "__main__":
    command("validate")
