"""What the base never does cannot be lost: such a check is skipped and says so, and none passes by it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from msgspec.structs import replace as changed

from ckptaudit.behavior.facts import ProbeFacts
from ckptaudit.behavior.preparation import ProbeSet
from ckptaudit.behavior.probes import read_probes
from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.judging.checks import Check
from ckptaudit.judging.limits import Limit
from ckptaudit.judging.probes import decide_probes
from ckptaudit.judging.verdict import Verdict
from ckptaudit.measurement.jobs import Unit
from ckptaudit.measurement.probes import ProbeRuns, measure_probes
from ckptaudit.metrics import Measurement
from ckptaudit.pairing import pair_checkpoints
from ckptaudit.pairing.runs import Run
from tests.behavior.conftest import CPU
from tests.behavior.judged import CHECKS, evidence, verdict
from tests.conftest import FIXTURES

NAMES = (
    "refusal-kept", "over-refusal", "refusal-mass-kept", "prefill-resisted", "decoding-resisted",
    "answers-end", "answers-not-longer", "answers-not-shorter",
)  # fmt: skip
BY_ID = {check.id: check for check in CHECKS}


@cache
def measured(base: str, tuned: str, tokens: int = 24) -> tuple[Measurement, ...]:
    """The bundled prompts that ask for a refusal, put to a pair of the family that refuses or has unlearned it."""
    probes = tuple(p for p in read_probes(FIXTURES / "probes" / "aligned.jsonl") if p.set == "refusal")
    before, after = open_checkpoint(FIXTURES / base), open_checkpoint(FIXTURES / tuned)
    runs = ProbeRuns(ProbeSet("aligned.jsonl", probes, ProbeFacts(max_new_tokens=tokens)), before, CPU)
    wanted = [(BY_ID[name].metric, BY_ID[name].per) for name in NAMES]
    run = Run("", tuned, pair_checkpoints(before, after))
    return tuple(measure_probes(runs, run, wanted, Unit(tuned, "probes", "probes")))


def judged(check: Check, rows: tuple[Measurement, ...]) -> Verdict:
    own = [row for row in rows if row.metric == check.metric]
    return decide_probes(check, "probes", "tuned", own, Limit(check.limit))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("refusal-kept", "the base refuses none of these prompts"),
        ("refusal-mass-kept", "the base opens with a refusal with a probability of"),
        ("prefill-resisted", "the base refuses none of these prompts behind their openings"),
        ("decoding-resisted", "the base answers all of these prompts under some setting"),
    ],
)
def test_a_base_that_refuses_nothing_has_no_refusal_to_keep(name: str, why: str) -> None:
    found = judged(BY_ID[name], measured("aligned-unlearned", "aligned-unlearned"))
    assert found.outcome == "skipped"
    assert found.reason.startswith(f"no tuned model could break the limit: {why}")
    # Behind an opening the bundled family refuses nothing at all.
    lost = judged(BY_ID[name], measured("aligned", "aligned-unlearned"))
    assert lost.outcome == ("skipped" if name == "prefill-resisted" else "failed")


@pytest.mark.parametrize("name", ["refusal-kept", "prefill-resisted", "decoding-resisted"])
def test_nothing_to_lose_closes_no_gate_where_warnings_count_as_failures(name: str) -> None:
    strict = changed(BY_ID[name], severity="gate")
    assert judged(strict, measured("aligned-unlearned", "aligned-unlearned")).outcome == "skipped"


def test_what_may_still_rise_is_judged() -> None:
    rows = measured("aligned-unlearned", "aligned-grpo")
    assert judged(BY_ID["over-refusal"], rows).outcome == "passed"
    # Somebody's own check that asks for refusals where the base had none.
    asks = changed(BY_ID["refusal-kept"], at_least=0.5)
    assert judged(asks, rows).outcome == "passed"
    assert judged(asks, measured("aligned-unlearned", "aligned-unlearned")).outcome == "failed"


@pytest.mark.parametrize("name", ["answers-end", "answers-not-longer", "answers-not-shorter"])
def test_answers_that_are_all_cut_off_show_nothing(name: str) -> None:
    found = judged(BY_ID[name], measured("aligned", "aligned-grpo", tokens=2))
    assert found.outcome == "skipped"
    assert "cut off at max_new_tokens in all of its answers; raise that" in found.reason
    assert judged(BY_ID[name], measured("aligned", "aligned-grpo")).outcome == "passed"


def test_answers_that_break_off_are_seen_where_the_base_s_are_cut_off() -> None:
    found = evidence("rlvr-gentle")
    base = {key: replace(row, stop="length", length=8) for key, row in found.spoken["base", "greedy"].items()}
    tuned = {key: replace(row, stop="end", length=1) for key, row in found.spoken["tuned", "greedy"].items()}
    shorter = replace(found, spoken={**found.spoken, ("base", "greedy"): base, ("tuned", "greedy"): tuned})
    assert verdict(BY_ID["answers-not-shorter"], shorter).outcome == "failed"


def test_a_result_keeps_what_the_base_leaves_possible() -> None:
    (row,) = (m for m in measured("aligned-unlearned", "aligned-grpo") if m.metric == "refusal_change")
    assert row.reach is not None
    assert (row.reach.least, row.reach.most) == (0.0, 1.0)
