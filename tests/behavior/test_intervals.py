"""How far the policy moves from save to save of a run, on task text and on text that should be kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptaudit.behavior.evidence import Evidence
from ckptaudit.behavior.intervals import Interval
from ckptaudit.behavior.items import Item
from ckptaudit.behavior.probe import Probe
from ckptaudit.metrics.behavior import ProbeReading, probes_metric_of
from tests.conftest import FIXTURES, package

SAVES = ("rlvr-step40", "rlvr-step70", "rlvr")
SETS = ("task", "retain")


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("probes") / "probes.jsonl"
    lines = []
    for name in SETS:
        text = (FIXTURES / "probes" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:8]
        own = ({**json.loads(line), "set": name} for line in text)
        lines += [{k: v for k, v in line.items() if k in ("text", "prompt", "completion", "set")} for line in own]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def between_saves(probes: Path, name: str) -> list[float]:
    """KL from each save to the next in nats per token, by transformers alone."""
    transformers = package("transformers")
    load = transformers.AutoModelForCausalLM.from_pretrained
    models = [load(FIXTURES / folder, dtype=torch.float32).eval() for folder in ("base", *SAVES)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(FIXTURES / "base")

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    sums, tokens = [0.0] * len(SAVES), 0
    for line in map(json.loads, probes.read_text(encoding="utf-8").splitlines()):
        if line["set"] != name:
            continue
        prompt = line.get("prompt", "")
        text = ids(prompt + (line.get("completion") or line.get("text") or ""))[
            : models[0].config.max_position_embeddings
        ]
        start = max(1, len(ids(prompt)))
        with torch.no_grad():
            logs = [m(torch.tensor([text])).logits[0, start - 1 : -1].double().log_softmax(-1) for m in models]
        for at in range(len(SAVES)):
            sums[at] += float((logs[at + 1].exp() * (logs[at + 1] - logs[at])).sum())
        tokens += len(text) - start
    return [total / tokens for total in sums]


def gate(tmp_path: Path, probes: Path, *tuned: str, **options: str) -> tuple[int, dict[str, Any]]:
    words = ["--base", FIXTURES / "base", "--audit-probes", probes, "--audit-profile", "behavior"]
    words += [word for name in tuned for word in ("--tuned", FIXTURES / name)]
    words += [word for name, value in options.items() for word in (f"--audit-{name}", value)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "kl-step-growth",
         "--audit-json", "found.json", *map(str, words)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
    return done.returncode, found


def test_the_growth_from_save_to_save_is_what_transformers_says(tmp_path: Path, probes: Path) -> None:
    code, found = gate(tmp_path, probes, *SAVES, several="steps")
    rows = {(Path(m["tuned"]).name, m["tensor"]): m for m in found["measurements"]}
    for name in SETS:
        first, second, third = between_saves(probes, name)
        assert rows["rlvr-step70", f"set {name}"]["value"] == pytest.approx(second / first, rel=1e-4)
        last = rows["rlvr", f"set {name}"]
        assert last["value"] == pytest.approx(third / max(first, second), rel=1e-4)
        assert f"{first:.2g}, {second:.2g}, {third:.2g}" in last["remark"]
    assert code == 0
    verdicts = [(v["check"], Path(v["tuned"]).name) for v in found["verdicts"]]
    assert verdicts == [("kl-step-growth", "rlvr-step70"), ("kl-step-growth", "rlvr")]
    (curve,) = found["trajectories"][0]["series"]
    assert curve["median"][0] is None
    assert None not in curve["median"][1:]


def test_without_saves_it_says_what_it_compares(tmp_path: Path, probes: Path) -> None:
    code, found = gate(tmp_path, probes, "rlvr")
    (verdict,) = found["verdicts"]
    assert code == 4  # a gate that judged nothing is not green
    assert verdict["outcome"] == "skipped"
    assert verdict["reason"].startswith("it compares checkpoints of one run")


NAMES = [f"p{number}" for number in range(8)]


def between(steps: int, nats: float) -> Interval:
    return Interval(steps, {name: (nats * (1 + at / 100), 4) for at, name in enumerate(NAMES)})


def reading(*intervals: Interval, floor: float = 0.0) -> ProbeReading:
    items = tuple(Item(Probe(1, "", ("x",), "text", name)) for name in NAMES)
    found = probes_metric_of("kl_step_growth").reading(Evidence(items, intervals=intervals, floor=floor), None)
    assert found is not None
    return found


def test_it_is_held_against_the_farthest_interval_before() -> None:
    assert reading(between(40, 1.0), between(40, 4.0), between(40, 2.0), between(40, 6.0)).value == pytest.approx(
        1.5
    )


def test_a_longer_interval_may_go_farther_by_the_square() -> None:
    assert reading(between(10, 1.0), between(30, 9.0)).value == pytest.approx(1.0)
    assert reading(between(30, 1.0), between(10, 1.0)).value == pytest.approx(1.0)


def test_below_rounding_nothing_grows() -> None:
    found = reading(between(40, 1e-12), between(40, 1e-9), floor=1e-6)
    assert found.value is not None
    assert found.value < 1e-3
    assert "rounding comes to as much" in found.remark


def test_the_first_save_has_no_growth() -> None:
    assert reading().value is None
    assert reading(between(40, 1.0)).value is None
