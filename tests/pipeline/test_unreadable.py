"""A tensor that cannot be read: its own metrics have no value and say why, and nothing beside it suffers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ckptaudit.judging.config import Config
from ckptaudit.judging.verdict import Verdict
from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.metrics import Measurement
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline import choose_checks, execute, judge, open_audit, plan

LOST = "model.layers.0.self_attn.q_proj.weight"
SHARD = "lost.safetensors"
UNHURT = {"norms-and-biases", "aligned", "same-shapes", "same-dtypes"}
"""Checks of the profile that rest on vectors or on headers alone."""


@pytest.fixture
def pair(small_pair: tuple[Path, Path]) -> tuple[Path, Path]:
    """The small pair, one tensor of the tuned side in a file of its own."""
    base, tuned = small_pair
    weights = load_file(tuned / "model.safetensors")
    (tuned / "model.safetensors").unlink()
    save_file({LOST: weights[LOST]}, tuned / SHARD)
    save_file({n: w for n, w in weights.items() if n != LOST}, tuned / "rest.safetensors")
    places = {name: SHARD if name == LOST else "rest.safetensors" for name in weights}
    (tuned / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return base, tuned


def audited(
    pair: tuple[Path, Path], folder: Path | None, *, complete: bool, lose: bool
) -> tuple[tuple[Verdict, ...], list[Measurement]]:
    base, tuned = map(str, pair)
    opened = open_audit(AuditOptions(base=base, tuned=(tuned,), profile="rlvr", complete=complete, exact=True))
    planned = plan(opened, choose_checks(opened, Config()).files, Config())
    if lose:
        (pair[1] / SHARD).unlink()
    store = execute(planned, MeasurementStore(folder))
    return judge(planned, store), [m for entry in store.entries() for m in entry.measurements]


@pytest.mark.parametrize("shared", [False, True], ids=["in one process", "in a shared folder"])
@pytest.mark.parametrize("complete", [False, True], ids=["what is needed", "complete"])
def test_the_other_tensors_of_its_layer_are_judged(
    pair: tuple[Path, Path], tmp_path: Path, complete: bool, shared: bool
) -> None:
    folders = [tmp_path / name if shared else None for name in ("before", "after")]
    for folder in filter(None, folders):
        folder.mkdir()
    intact, before = audited(pair, folders[0], complete=complete, lose=False)
    given, rows = audited(pair, folders[1], complete=complete, lose=True)

    assert {m.tensor for m in rows if m.value is None} == {LOST}
    assert {(m.tensor, m.metric) for m in rows} == {(m.tensor, m.metric) for m in before}
    assert all(SHARD in m.remark for m in rows if m.tensor == LOST)

    for was, now in zip(intact, given, strict=True):
        assert (was.check, was.subject) == (now.check, now.subject)
        if now.subject in ("layers.0", "model") and now.check not in UNHURT:
            assert (now.outcome, now.worst) == ("error", LOST)
            assert SHARD in now.reason
        else:
            assert (now.outcome, now.value) == (was.outcome, was.value)
    unhurt = {v.check for v in given if v.subject == "layers.0" and v.outcome == "passed"}
    assert unhurt == {"norms-and-biases"}, "the layer's other tensor is judged"
