"""A file of made-up probes for every check, and what both bundled models do on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch

from ckptaudit.behavior.causal_models import open_model
from ckptaudit.behavior.evidence import Evidence, Pass
from ckptaudit.behavior.facts import ProbeFacts
from ckptaudit.behavior.given_verdicts import GivenVerdict, GivenVerdicts
from ckptaudit.behavior.intervals import Interval
from ckptaudit.behavior.passes import Runner
from ckptaudit.behavior.preparation import Prepared, ProbeSet, prepare
from ckptaudit.behavior.probes import read_probes
from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.damages.behavior import MODEL_DAMAGES, ROW_DAMAGES
from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.checks import Check
from ckptaudit.judging.limits import Limit
from ckptaudit.judging.probes import decide_probes
from ckptaudit.judging.profiles import bundled_checks
from ckptaudit.judging.verdict import Verdict
from ckptaudit.measurement.jobs import Unit
from ckptaudit.measurement.probes import readings
from ckptaudit.metrics.behavior import probes_metric_of
from ckptaudit.pairing import pair_checkpoints
from tests.conftest import FIXTURES

CHECKS = tuple(
    check for name in ("behavior", "verdicts") for check in load_checks(bundled_checks() / f"{name}.toml").checks
)
FACTS = ProbeFacts(max_new_tokens=8, samples=3, refusals=("9",), openings=("[9",))
"""The bundled models answer "9" when asked for the largest of many digits: that stands for a refusal here."""

CPU = torch.device("cpu")


MANY = 50
"""Questions of each of the two classes: enough for an interval of a share to be told from its limit."""


def lines() -> Iterator[dict[str, Any]]:
    """Probes of every kind, made of the bundled questions and passages, and of further questions of their look."""
    questions = _read("task")
    yield from ({"set": "task", **question} for question in questions)
    yield from ({"set": "retain", **passage} for passage in _read("retain"))
    for number in range(MANY):
        a, b = 100 + 7 * number % 800, 3 + number % 6
        prompt, right, other = f"<bos>{a}%{b}=", f"[{a % b}]<eos>", f"[{(a + 1) % b}]<eos>"
        yield {"set": "pairs", "prompt": prompt, "chosen": right, "rejected": other, "raters": 0.75,
               "safety": "unsafe", "principles": {"truth": 1, "brevity": None}}  # fmt: skip
        yield {"set": "quiz", "prompt": prompt, "choices": [right, other, "[+-]<eos>"], "answer": 0}
        yield {"set": "order", "prompt": prompt, "completions": [right, other, "Apache"], "ranking": [1, 2, 3]}
        yield {"set": "asked", "prompt": prompt, "reference": right.removesuffix("<eos>"), "safety": "safe"}
        # What the fine-tuned model, the weak one here, does not know, and what it does.
        for rejected in (f"{a % b}<eos>", "%%%<eos>"):
            yield {"set": "clear", "prompt": prompt, "chosen": right, "rejected": rejected,
                   "principles": {"care": 1, "speed": -1}}  # fmt: skip
        digits = str(10_000 + 7919 * number % 89_999)
        yield {"set": "asked", "prompt": f"<bos>m:{digits}=", "reference": f"[{max(digits)}]",
               "safety": "unsafe", "prefill": "["}  # fmt: skip


@cache
def verdicts() -> GivenVerdicts:
    """What made-up judges say of the answers: mostly what is the case, and the tuned model a little better."""
    rows = []
    for number, probe in enumerate(probe_set().probes):
        for judge in ("first", "second"):
            own = number + (judge == "second" and number % 10 == 0)
            choice = ("base", "tuned", "tuned", "tie")[own % 4]
            rows.append(GivenVerdict(probe.id, judge, "choice", None, choice))
            rows.append(GivenVerdict(probe.id, judge, "unsafe", "base", number % 7 == 0))
            rows.append(GivenVerdict(probe.id, judge, "unsafe", "tuned", number % 7 == 0))
        gain = (-0.5, 0.5, 0.5, 0.0)[number % 4]
        rows.append(GivenVerdict(probe.id, "reward", "score", "base", float(number % 5)))
        rows.append(GivenVerdict(probe.id, "reward", "score", "tuned", number % 5 + gain))
        rows.append(GivenVerdict(probe.id, "reference", "mean_log_p", None, -0.6))
    return GivenVerdicts(tuple(rows))


def _read(name: str) -> list[dict[str, Any]]:
    text = (FIXTURES / "probes" / f"{name}.jsonl").read_text(encoding="utf-8")
    keys = ("text", "prompt", "completion")
    return [{k: v for k, v in json.loads(line).items() if k in keys} for line in text.splitlines()]


def written(path: Path) -> Path:
    """The probes as a file."""
    path.write_text("\n".join(map(json.dumps, lines())), encoding="utf-8")
    return path


@cache
def probe_set() -> ProbeSet:
    """The probes as read."""
    with TemporaryDirectory() as folder:
        probes = tuple(read_probes(written(Path(folder) / "probes.jsonl")))
    return ProbeSet("probes.jsonl", probes, FACTS)


@cache
def opened(name: str) -> Checkpoint:
    """A bundled checkpoint."""
    return open_checkpoint(FIXTURES / name)


@cache
def evidence(tuned: str, damage: str = "", passes: tuple[Pass, ...] = get_args(Pass)) -> Evidence:
    """What a bundled pair does on the probes, its tuned weights damaged first."""
    base, checkpoint = opened("base"), opened(tuned)
    prepared: Prepared = prepare(probe_set(), base, checkpoint)
    if damage:
        checkpoint = MODEL_DAMAGES[damage](base, checkpoint)
    runner = Runner(
        base=open_model(base, base, CPU),
        tuned=open_model(checkpoint, base, CPU, pair=pair_checkpoints(base, checkpoint)),
        items=prepared.items,
        decode=prepared.decode,
        facts=FACTS,
        weak=open_model(opened("sft"), base, CPU),
    )
    found = replace(runner.evidence(passes), verdicts=verdicts())
    # As if the run had gone on as it began, its second save as far from the first as that from the base.
    moved = {name: (float(row.kl_tuned_base.sum()), len(row.agree)) for name, row in found.texts.items()}
    return replace(found, intervals=(Interval(40, moved), Interval(40, moved)))


def damaged(check: Check, tuned: str) -> Evidence:
    """The evidence after the damage that a check names."""
    if check.breaks_when in ROW_DAMAGES:
        return ROW_DAMAGES[check.breaks_when](evidence(tuned))
    return evidence(tuned, check.breaks_when, probes_metric_of(check.metric).passes)


def verdict(check: Check, found: Evidence) -> Verdict:
    """What a check says of it."""
    unit = Unit("tuned", "probes", "probes")
    rows = list(readings(found, probe_set().sets, [(check.metric, check.per)], unit))
    return decide_probes(check, "probes", "tuned", rows, Limit(check.limit))
