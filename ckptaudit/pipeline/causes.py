"""Broken verdicts to verdicts that name the cause, where a cheap search finds one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import structs

from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics.causes import CauseSearch
from ckptaudit.pipeline.opening import OpenedAudit

logger = logging.getLogger(__name__)

TRIED = 2
"""How many tensors of a verdict are looked at."""


def causes(opened: OpenedAudit, verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """The verdicts, the broken ones with the cause that their worst tensors show, if there is one."""
    search = Causes(opened)
    return tuple(map(search.named, verdicts))


@dataclass(frozen=True)
class Causes:
    """The searches of an audit, one for each run: front ends that judge one by one keep it between verdicts."""

    opened: OpenedAudit
    searches: dict[str, CauseSearch] = field(default_factory=dict)

    def named(self, verdict: Verdict) -> Verdict:
        """The verdict with its cause, also where it cannot be judged; what holds, or has none, as it is."""
        if verdict.outcome not in ("failed", "error"):
            return verdict
        run = next((run for run in self.opened.runs if run.path == verdict.tuned), None)
        if run is None:
            return verdict
        search = self.searches.setdefault(run.path, CauseSearch(run.pair))
        names = dict.fromkeys((verdict.worst or "", *(ranked.tensor for ranked in verdict.ranking)))
        for name in list(names)[:TRIED]:
            try:
                cause = search.of(name)
            except Exception:  # a guess at the cause may not cost the verdict
                logger.debug("the search for a cause failed", exc_info=True)
                return verdict
            if cause is not None:
                return structs.replace(verdict, cause=cause)
        return verdict
