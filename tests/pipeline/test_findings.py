"""Findings are records: reported under the names they are about, whatever these hold, and waived by them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptaudit
from ckptaudit.findings import Finding
from ckptaudit.judging.verdict import Verdict
from ckptaudit.results.json_io import write_json

NAMES = ["a:0.weight", "a: only in base.weight", "a, b; c.weight", "a[0].weight", "model.layers.0.a:b, c.weight"]
"""Names that a sentence taken apart at its punctuation would cut."""

FAULTS = {
    "aligned": (lambda weight: None, "only in base"),
    "same-shapes": (lambda weight: weight[:1], "shapes differ"),
    "same-dtypes": (lambda weight: weight.half(), "types differ"),
}
"""By check, what is done to the tuned tensor, and how the fault is called."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", FAULTS)
def test_a_finding_is_reported_under_its_tensors_name_and_its_waiver_fits(
    write_checkpoint: Callable[..., Path], tmp_path: Path, check: str, name: str
) -> None:
    change, fault = FAULTS[check]
    whole = {name: torch.ones(2, 3), "b.weight": torch.ones(2, 3)}
    changed = change(whole[name])
    rest = {n: w for n, w in whole.items() if n != name}
    pair = (
        write_checkpoint("base", whole),
        write_checkpoint("tuned", rest if changed is None else {**rest, name: changed}),
    )

    def judged(config: Path | None = None) -> Verdict:
        result = ckptaudit.audit(*pair, profile="integrity", config=config, cache="off", complete=False)
        write_json(result, tmp_path / "audit.json")
        return next(v for v in result.verdicts if v.check == check)

    found = judged()
    assert (found.outcome, found.value, found.worst) == ("failed", 1.0, name)
    (finding,) = found.findings
    assert (finding.tensor, finding.fault) == (name, fault)
    (written,) = next(v for v in _verdicts(tmp_path) if v["check"] == check)["findings"]
    assert Finding(**written) == finding

    waiver = tmp_path / "ours.toml"
    waiver.write_text(
        f"[[waiver]]\ncheck = {json.dumps(check)}\nsubject = {json.dumps(name)}\n"
        "until = 9999-12-31\nreason = 'ours'\n"
    )
    assert judged(waiver).outcome == "waived"


def _verdicts(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "audit.json").read_text())["verdicts"]
    return found
