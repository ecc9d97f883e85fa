from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ckptaudit.checkpoints import Checkpoint, TensorHandle
from ckptaudit.metrics import Measurement, group_metric_of
from ckptaudit.metrics.groups import measure_group
from ckptaudit.options import AUXILIARY
from ckptaudit.pairing import pair_checkpoints
from ckptaudit.pairing.auxiliary import Auxiliary, AuxiliaryInput
from ckptaudit.pairing.runs import Run

MeasureWhole = Callable[..., Measurement]


def in_memory(tensors: dict[str, Tensor]) -> Checkpoint:
    """A checkpoint of these tensors; the handles are those that readers return."""
    blank = TensorHandle("", (), "", Path("memory"), lambda: torch.empty(0))
    return Checkpoint("memory", "memory", {n: replace(blank, name=n).with_tensor(t) for n, t in tensors.items()})


@pytest.fixture(scope="session")
def measure_whole() -> MeasureWhole:
    """A group metric of all weights as one: `measure_whole(metric, base, tuned, fisher=..., gradients=...)`."""

    def measured(
        metric: str, base: dict[str, Tensor], tuned: dict[str, Tensor], **given: dict[str, Tensor]
    ) -> Measurement:
        before = in_memory(base)
        pair = pair_checkpoints(before, in_memory(tuned))
        inputs = {}
        for name, tensors in given.items():
            samples = AUXILIARY[name].layout == "samples"
            own = in_memory(tensors)
            if samples:
                own = replace(own, tensors={n: replace(h, shape=h.shape[1:]) for n, h in own.tensors.items()})
            weights = {t.name: t for t in pair_checkpoints(before, own).aligned}
            count = len(next(iter(tensors.values()))) if samples else 1
            inputs[name] = AuxiliaryInput(AUXILIARY[name], "memory", count, weights)
        cpu = torch.device("cpu")
        return measure_group(
            group_metric_of(metric), "model", ["all"], Run("", "run", pair), pair.aligned, Auxiliary(inputs), cpu
        )

    return measured
