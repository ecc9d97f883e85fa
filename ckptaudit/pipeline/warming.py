"""What gates will look for in the cache of a base, computed ahead of them."""

from __future__ import annotations

from dataclasses import replace

from ckptaudit.errors import CacheError, parameter, printable
from ckptaudit.judging.config import Config
from ckptaudit.measurement.base_cache import FactorCache
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.api import prepare
from ckptaudit.pipeline.execution import Progress, execute


def warm(options: AuditOptions, progress: Progress | None = None) -> tuple[FactorCache, tuple[str, ...]]:
    """Audit a base against itself, and keep what rests on it alone; the cache, and what could not be computed.

    What a gate computes of a base because an update came near a limit is not foreseen. Raises CkptAuditError.
    """
    prepared = prepare(replace(options, tuned=(options.base,)), Config())
    cache = prepared.opened.cache
    if cache is None:
        raise CacheError(f"there is no folder for a cache; name one by {parameter('cache')} DIR.")
    matrices = [
        verdict for verdict in prepared.plan.verdicts if any(unit.scope == "matrix" for unit in verdict.units)
    ]
    store = execute(prepared.plan, progress=progress, verdicts=matrices)
    units = dict.fromkeys(unit for verdict in matrices for unit in verdict.units if unit.scope == "matrix")
    rows = [m for unit in units for m in store[unit]]
    failed = {m.tensor: m.remark for m in rows if m.value is None and m.remark}
    return cache, tuple(f"{printable(name)}: {printable(why)}" for name, why in failed.items())
