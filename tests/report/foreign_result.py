"""A result as its JSON holds it, with every kind of record in it; and the same with hostile texts everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from ckptaudit.results.records import AuditResult

SHAPE = [8, 8]


def plain() -> dict[str, Any]:
    """Two runs, one broken layer, one check that could not be judged, one waived, one skipped."""
    tensors = [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2)] + ["model.embed_tokens.weight"]
    runs = ["run-1", "run-2"]
    return {
        "schema": "ckptaudit/1", "base": "base", "tuned": runs,
        "summary": {"passed": 1, "failed": 1, "skipped": 1, "errors": 1, "waived": 1},
        "unaligned": ["x: only in base"], "notes": ["a note"],
        "measurements": [_measured(run, tensor, 0.01 * i) for run in runs for i, tensor in enumerate(tensors)],
        "verdicts": [*(v for run in runs for v in _verdicts(run, tensors)), _stepwise(runs[0])],
        "checkpoints": [
            {"side": side, "path": path, "format": "safetensors", "fingerprint": "ab12", "tensors": 3,
             "parameters": 192, "dtypes": {"bfloat16": 3}}
            for side, path in (("base", "base"), ("tuned", runs[0]), ("tuned", runs[1]))
        ],
        "checks": [*map(_check, ("drift", "waived", "blind", "warned", "skipped")),
                   {**_check("steps"), "metric": "mismatch_k3", "per": "step"}],
        "about": {"command": ["pytest", "--base=base"], "profile": "rlvr", "device": "cpu", "exact": False,
                  "started": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "versions": {"torch": "2.9"},
                  "inputs": {"gradients": "g.safetensors"}},
        "spectra": [{"tuned": runs[0], "tensor": tensors[0], "layer": 0, "role": "q_proj", "shape": SHAPE, "k": 2,
                     "gap": 0.1, "ranks": [1, 2], "base_singular_values": [2.0, 1.0],
                     "tuned_singular_values": [2.0, 1.0], "angle_ranks": [1], "left_angles": [0.1],
                     "right_angles": [0.1]}],
        "trajectories": [{"name": "run", "counted": False, "first_failures": {"drift": "run-2"},
                          "steps": [{"tuned": run, "label": run, "step": i} for i, run in enumerate(runs)],
                          "series": [{"metric": "normalized_spectral_shift", "lowest": [0.1, 0.2],
                                      "median": [0.1, 0.2], "highest": [0.1, None]}]}],
        "siblings": [{"tuned": runs, "elsewhere": [], "figures": {"update_cosine": [0.1, 0.2]}}],
        "against": {"path": "released.json", "tuned": "old", "factor": 2.0},
        "rollouts": [_rollouts(runs[0])],
        "inputs": [{"name": "verdicts", "path": "v.jsonl", "digest": "ab12", "tuned": "",
                    "files": [{"name": ".", "sha256": "ab12"}]},
                   {"name": "reference", "path": "s3://sft", "digest": "", "files": [], "fingerprint": "ab12"}],
    }  # fmt: skip


def _measured(run: str, tensor: str, value: float) -> dict[str, Any]:
    layer = int(tensor.split(".")[2]) if "layers" in tensor else None
    return {"tuned": run, "tensor": tensor, "layer": layer, "role": "q_proj", "shape": SHAPE,
            "metric": "normalized_spectral_shift", "value": value, "kind": "exact"}  # fmt: skip


def _verdicts(run: str, tensors: list[str]) -> Iterator[dict[str, Any]]:
    outcomes = {"drift": "failed", "waived": "waived", "blind": "error", "warned": "failed", "skipped": "skipped"}
    for check, outcome in outcomes.items():
        judged = outcome not in ("error", "skipped")
        yield {
            "tuned": run, "check": check, "subject": "layers.1", "outcome": outcome, "limit": 0.001,
            "worst": tensors[1], "value": 0.01 if judged else None, "kind": "exact" if judged else None,
            "source": "ours", "metric": "normalized_spectral_shift", "sign": "<=",
            "severity": "warn" if check == "warned" else "gate", "reason": "a reason", "limit_from": "override 1",
            "ranking": [{"tensor": tensors[1], "value": 0.01, "remark": "a remark"}], "waiver": "until 2030: known",
            "test": f"ours.toml::{check}[layers.1]", "released": 0.0001, "released_limit": 0.0002,
        }  # fmt: skip


def _stepwise(run: str) -> dict[str, Any]:
    """A broken check of rollouts, with samples."""
    return {
        "tuned": run, "check": "steps", "subject": "rollouts", "outcome": "failed", "limit": 0.015,
        "worst": "step 2", "value": 0.5,
        "kind": "exact", "source": "ours", "metric": "mismatch_k3", "sign": "<=", "severity": "warn",
        "reason": "first at step 2", "ranking": [{"tensor": "step 2", "value": 0.5, "remark": "of 9"}],
        "over_steps": {"judged": 2, "broken": 1, "first_broken": "step 2"},
        "samples": [{"step": 2, "sample": "a", "group": "g", "reward": 1.0, "prompt": "why", "response": "so"}],
    }  # fmt: skip


def _rollouts(run: str) -> dict[str, Any]:
    sizes = {"sizes": [0.0, 1.0], "below": [1, 0], "above": [3, 1], "equal": 2}
    bins = [{"start": 0, "mean": 0.1, "standard_error": 0.1, "count": 4}]
    return {
        "tuned": run, "path": "runs/1", "trainer": "trl", "steps": 2, "first_step": 1, "last_step": 2, "checks": 2,
        "judged": 1, "unjudged": [{"reason": "not logged", "checks": ["other"]}], "step_numbers": [1, 2],
        "curves": [{"metric": metric, "values": [0.1, 0.5], "samples": [9, 9], "low": [None, 0.4],
                    "high": [None, 1e308]} for metric in ("mismatch_k3", "unheard_of")],
        "over_run": [{"metric": "mismatch_k3_mean", "value": 0.3, "remark": "a remark"}],
        "distributions": {**sizes, "by_position": bins, "reward_by_length": bins},
    }  # fmt: skip


def _check(name: str) -> dict[str, Any]:
    return {"id": name, "file": "ours.toml", "claim": "A claim.", "metric": "normalized_spectral_shift",
            "unit": "1", "sign": "<=", "limit": 0.001, "per": "layer", "judge_by": "worst", "severity": "gate",
            "source": "ours", "published": "a figure", "note": "a note", "remedy": "Look.",
            "roles": ["matrix"]}  # fmt: skip


def poisoned(poison: str) -> dict[str, Any]:
    """The result with `poison` before every text that may be any: same texts stay the same."""
    result = plain()
    for place in _free_texts():
        _change(result, place, lambda text: poison + text)
    return result


@lru_cache(1)
def _free_texts() -> tuple[tuple[Any, ...], ...]:
    """Places of texts that are not one of a few words."""
    return tuple(place for place in _texts(plain()) if place != ("schema",) and _is_free(place))


def _is_free(place: tuple[Any, ...]) -> bool:
    tried = plain()
    _change(tried, place, lambda text: f"x{text}")
    try:
        msgspec.convert(tried, AuditResult)
    except msgspec.ValidationError:
        return False
    return True


def _texts(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, str):
        yield at
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(inner, (*at, key))


def _change(value: Any, place: tuple[Any, ...], change: Callable[[str], str]) -> None:
    for key in place[:-1]:
        value = value[key]
    value[place[-1]] = change(value[place[-1]])
