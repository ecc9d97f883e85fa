"""Rollouts that branch: siblings share the tokens, and the engine's log-probabilities, up to the branch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.readings import Metric, Reading, exact, step_subject

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows

PREFIXES = Metric(
    name="prefix_mismatch_count",
    unit="samples",
    formula="samples whose first prefix_len tokens or logp_rollout differ in any bit from a sibling's",
    source="BranchGRPO (arXiv:2509.06040): children of a node share its prefix",
    scale="count",
    per=("step",),
    needs=("parent_id", "prefix_len", "token_ids"),
)
METRICS = (PREFIXES,)


def begin_step(facts: RunFacts, wanted: frozenset[str]) -> Trees:
    """The branches of a step."""
    return Trees()


class Trees:
    """The prefix of the first sibling seen of each node, as a digest."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, int], tuple[int, int]] = {}
        self._compared, self._wrong = 0, []  # type: int, list[str]

    def add(self, rows: StepRows) -> None:
        """Compare each sample with the first of its siblings."""
        if not rows.has(*PREFIXES.needs):
            return
        parents, lengths = (rows.rows.column(name).to_pylist() for name in ("parent_id", "prefix_len"))
        for place, (parent, length) in enumerate(zip(parents, lengths, strict=True)):
            if parent is not None and length is not None:
                digest = (
                    self._digest(rows, "token_ids", place, length),
                    self._digest(rows, "logp_rollout", place, length),
                )
                self._compared += 1
                if self._first.setdefault((parent, length), digest) != digest:
                    self._wrong.append(str(rows.names[place]))

    @staticmethod
    def _digest(rows: StepRows, column: str, place: int, length: int) -> int:
        entries = rows.rows.column(column)[place].values if rows.has(column) else None
        if entries is None:
            return 0
        return hash(entries.slice(0, max(0, length)).to_numpy(zero_copy_only=False).tobytes())

    def readings(self, step: int) -> Iterator[Reading]:
        """How many differ."""
        if self._compared:
            yield exact(PREFIXES, step_subject(step), len(self._wrong), self._compared, self._wrong[:3])
