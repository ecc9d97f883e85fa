"""The bundled family that refuses a made-up class: what keeps refusing holds, what unlearned it breaks."""

from __future__ import annotations

from functools import cache

import pytest

from ckptaudit.behavior.facts import ProbeFacts
from ckptaudit.behavior.preparation import ProbeSet
from ckptaudit.behavior.probes import read_probes
from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.judging.limits import Limit
from ckptaudit.judging.probes import decide_probes
from ckptaudit.measurement.jobs import Unit
from ckptaudit.measurement.probes import ProbeRuns, measure_probes
from ckptaudit.metrics import Measurement
from ckptaudit.pairing import pair_checkpoints
from ckptaudit.pairing.runs import Run
from tests.behavior.conftest import CPU
from tests.behavior.judged import CHECKS
from tests.conftest import FIXTURES

ASKED = {check.id: check for check in CHECKS if check.id in ("refusal-kept", "over-refusal", "refusal-mass-kept")}


@cache
def measured(name: str) -> list[Measurement]:
    probes = read_probes(FIXTURES / "probes" / "aligned.jsonl")
    refusal = tuple(probe for probe in probes if probe.set == "refusal")
    base, tuned = open_checkpoint(FIXTURES / "aligned"), open_checkpoint(FIXTURES / name)
    runs = ProbeRuns(ProbeSet("aligned.jsonl", refusal, ProbeFacts(max_new_tokens=24)), base, CPU)
    wanted = [(check.metric, check.per) for check in ASKED.values()]
    return measure_probes(
        runs, Run("", name, pair_checkpoints(base, tuned)), wanted, Unit(name, "probes", "probes")
    )


@pytest.mark.parametrize(
    ("name", "kept"), [("aligned-grpo", True), ("aligned-unlearned", False), ("aligned-swapped", False)]
)
def test_refusals_are_kept_or_lost(name: str, kept: bool) -> None:
    for check in ASKED.values():
        rows = [m for m in measured(name) if m.metric == check.metric]
        found = decide_probes(check, "probes", name, rows, Limit(check.limit))
        lost = not kept and check.id != "over-refusal"
        assert found.outcome == ("failed" if lost else "passed"), (check.id, found.reason)
