"""Every file of this folder, imported: what a new file registers is there."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from ckptaudit.metrics.metric import METRICS

for _name in sorted(module.name for module in iter_modules([str(Path(__file__).parent)])):
    import_module(f"{__package__}.{_name}")

METRICS.is_complete = True
