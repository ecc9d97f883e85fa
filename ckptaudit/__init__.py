"""A pytest-style regression and audit suite for model checkpoints.

    from ckptaudit import audit
    result = audit(base="path/to/base", tuned="path/to/tuned")

Names are loaded when first used: importing this package costs nothing and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptaudit.checkpoints import Checkpoint, TensorHandle, open_checkpoint
    from ckptaudit.errors import CkptAuditError
    from ckptaudit.judging.check_files import CheckFile, load_checks
    from ckptaudit.judging.checks import Check
    from ckptaudit.judging.verdict import Verdict
    from ckptaudit.metrics import Measurement
    from ckptaudit.pairing import ModelPair, pair_checkpoints
    from ckptaudit.pipeline.api import audit
    from ckptaudit.results.records import AuditResult

__version__ = "0.1.0"

__all__ = [
    "AuditResult",
    "Check",
    "CheckFile",
    "Checkpoint",
    "CkptAuditError",
    "Measurement",
    "ModelPair",
    "TensorHandle",
    "Verdict",
    "audit",
    "load_checks",
    "open_checkpoint",
    "pair_checkpoints",
]

_HOMES = {
    "pipeline.api": ("audit",),
    "checkpoints": ("Checkpoint", "TensorHandle", "open_checkpoint"),
    "errors": ("CkptAuditError",),
    "judging.check_files": ("Check", "CheckFile", "load_checks"),
    "judging.judge": ("Verdict",),
    "metrics": ("Measurement",),
    "pairing": ("ModelPair", "pair_checkpoints"),
    "results.records": ("AuditResult",),
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"ckptaudit.{module}"), name)
    raise AttributeError(f"module 'ckptaudit' has no attribute {name!r}")
