"""A model whose code lies in its folder: refused without consent, run by every part with it.

Engine, graders, scorer and ranks are processes of their own, as in a run. Model and processor of
the folder see pictures otherwise than the family that they are made from, so equal tokens and
log-probabilities show that all of them run its code.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.families.own_code.folder import CODE, NATIVE, own_code_model

ROOT = Path(__file__).resolve().parents[2]
CONSENT = "policy.trust_remote_code=true"
PRM = ("select.reward=prm", "select.rule=top_k", "prm.engine=transformers")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def validated(model: Path, folder: Path, *changes: str) -> tuple[int, str]:
    """Exit code and output of `mstar-ray validate` in a process whose home nobody else has."""
    asked = ["validate", "--recipe", "tiny", "--samples", "2"]
    sets = (f"policy.path={model}", f"run.out={folder / 'out'}", "generate.max_new_tokens=24",
            "generate.max_model_len=1024", *changes)  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "jobs", *asked, *(part for one in sets for part in ("--set", one))],
        cwd=ROOT,
        env={**os.environ, "HF_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_nothing_is_started_without_consent(tmp_path: Path) -> None:
    model = own_code_model(tmp_path / "model")
    code, said = validated(model, tmp_path)
    assert code == 2, said
    assert f"{model} brings code of its own ({', '.join(CODE)}), which is not run" in said
    assert f"set {CONSENT}" in said
    assert "starting Ray" not in said
    assert not (tmp_path / "home" / "modules").exists()


def test_every_part_runs_the_code_that_was_consented_to(tmp_path: Path) -> None:
    model = own_code_model(tmp_path / "model")
    _, said = validated(model, tmp_path, CONSENT, *PRM)
    assert f"{model}: code of its own is run, as policy.trust_remote_code says: {CODE[0]} " in said
    assert "ok  prompt tokens are equal in engine and processor for 5 of 5 queries" in said
    assert "ok  log-probabilities differ by" in said, said
    assert "ok  one training step on" in said
    assert "ok  the running engine took the trained policy and answered with it" in said
    assert "ok  the process reward model scored" in said
    # Its weights are random, so no chain is correct; nothing else failed.
    failed = [line for line in said.splitlines() if line.lstrip().startswith("FAILED")]
    assert all("warm-up chains" in line for line in failed), said
    # Workers copied the code to their node's cache; only the driver uses the home.
    copies = {path.parent.parent.name for path in (tmp_path / "home").rglob("modeling_own.py")}
    assert copies == {"model"}


@pytest.mark.parametrize(
    ("architecture", "gain", "changes", "reason"),
    [
        (NATIVE, 1.0, (), "its processor would be Idefics3Processor, and the folder's own is"),
        ("Nowhere", 1.0, (), "vLLM cannot serve it (Nowhere)"),
        (
            "OwnForConditionalGeneration", 2.0, (*PRM, "prm.engine=vllm"),
            "set prm.engine=transformers",
        ),
    ],
)  # fmt: skip
def test_what_vllm_cannot_serve_is_refused_before_engines_start(
    architecture: str, gain: float, changes: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    model = own_code_model(tmp_path / "model", architecture=architecture, gain=gain)
    if architecture == "Nowhere":
        without_attention(model / "modeling_own.py")
    code, said = validated(model, tmp_path, CONSENT, *changes)
    assert code == 2, said
    assert reason in said
    assert "starting Ray" not in said


def without_attention(file: Path) -> None:
    """Make the model one whose attention is not transformers': no engine could take its place."""
    head = "class OwnModel(Idefics3Model):\n"
    text = file.read_text("utf-8")
    assert head in text
    attention = "    _can_set_attn_implementation = is_backend_compatible = lambda *_: False\n"
    file.write_text(text.replace(head, f"{head}{attention}"), "utf-8")
