"""Blocks of consecutive rows that are bitwise the base's: what one stale rank of a sharded save leaves behind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from ckptaudit.findings import Finding
from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.evidence import RunEvidence
from ckptaudit.metrics.findings import findings_metric
from ckptaudit.metrics.large import LargePair
from ckptaudit.metrics.matrix import metric
from ckptaudit.metrics.movement import DIFFERING, UNLIKELY, Movement, Part, chance, is_nearly_base

ROWS = "unchanged_rows"

LEAST_SHARE = 1 / 64
"""The smallest block, as a share of the rows: more ranks than this share one matrix rarely."""

READ_AGAIN = 12
"""How many matrices are read again to see where their blocks begin."""

CAUTION = 0.2
"""Rows of one matrix may change this much less often than its others without being called stale."""

FIRST_COLUMNS = 128

ALIKE = 0.6
"""Share of those whose blocks must lie alike to be one rank's."""


@metric(
    unit="rows",
    scale="count",
    formula="max{b : rows a, ..., a + b - 1 of W1 are bitwise those of W0, for some a}",
    source="definition",
    needs="matrix",
    standing=False,
)
def unchanged_rows(batch: PairBatch) -> Tensor:
    """The longest block of consecutive rows that are the base's."""
    # A mark for each row is little, and on a device each matrix would be waited for.
    differ = _rows_that_differ(batch).cpu()
    lengths = torch.stack([_longest(rows)[1] for rows in differ])
    return lengths.double().to(batch.stored_base.device)


@findings_metric(
    scope="run",
    unit="blocks",
    formula="#{blocks of rows at the base that lie alike in matrices of several roles}",
    rests_on=(DIFFERING, ROWS),
)
def stale_rows(evidence: RunEvidence) -> list[Finding]:
    """Blocks of rows left at the base in the same place of most matrices: one rank of a sharded save is stale.

    Raises CheckpointError if a file is damaged.
    """
    return list(_of_a_rank(*_blocks(evidence)))


@findings_metric(
    scope="run",
    unit="matrices",
    formula=f"#{{other matrices with a block of {LEAST_SHARE:g} of the rows at the base, vocabularies apart}}",
    rests_on=(DIFFERING, ROWS),
)
def rows_at_base(evidence: RunEvidence) -> list[Finding]:
    """Matrices in which a block of rows was left at the base while the others changed."""
    blocks, total = _blocks(evidence)
    if list(_of_a_rank(blocks, total)):
        return []
    return [
        Finding(p.name, "rows at the base", f"{rows:.0f} consecutive of {_rows_of(p)} rows are bitwise the base's")
        for p, rows in blocks
    ]


Blocks = Sequence[tuple[Part, float]]


def _blocks(evidence: RunEvidence) -> tuple[Blocks, int]:
    """The matrices with a block that chance does not explain, and how many could have had one.

    With p the share that changed outside of the block, b n entries keep their value by chance with a probability
    of (1 - p)^(b n), judged with a fifth of p. Tokens that no text holds keep their
    rows, so vocabularies are left out.
    """
    movement = Movement.of(evidence)
    if is_nearly_base(movement):
        return [], 0
    telling = [p for p in movement.parts if _is_telling(p) and p.name not in movement.stale]
    values = evidence.values[ROWS]
    found = [(p, rows) for p in telling if (rows := values.get(p.name)) and _is_stale(p, rows, len(telling))]
    return found, len(telling)


def _is_telling(part: Part) -> bool:
    return part.changed and part.tensor.is_matrix and part.tensor.group != "vocabulary"


def _is_stale(part: Part, rows: float, parts: int) -> bool:
    count, width = _rows_of(part), part.entries / _rows_of(part)
    if not max(1.0, LEAST_SHARE * count) < rows < count:
        return False
    share = CAUTION * part.differing / ((count - rows) * width)
    return chance(0.0, round(rows * width), share) < math.log(UNLIKELY / parts)


def _of_a_rank(blocks: Blocks, total: int) -> Iterator[Finding]:
    if total < 2 or len(blocks) < ALIKE * total or len({p.place.role for p, _ in blocks}) < 2:
        return
    read = blocks[:: max(1, len(blocks) // READ_AGAIN)][:READ_AGAIN]
    places = Counter(_place(part) for part, _ in read)
    (first, size), alike = places.most_common(1)[0]
    if alike < ALIKE * len(read):
        return
    name = f"rank {round(first / size)} of 0 to {round(1 / size) - 1}"
    said = f"the same {size:.3g} of the rows is bitwise the base's in {len(blocks)} of {total} matrices"
    yield Finding(
        name, "rows at the base", f"{said}, from {first:.3g} on; save the checkpoint again from all ranks"
    )


def _place(part: Part) -> tuple[float, float]:
    """Where the block begins, and how long it is, as shares of the rows, in 240ths."""
    before, after = part.tensor.base.read(), part.tensor.tuned.read()
    if part.tensor.stacked and part.expert is not None:
        before, after = before[part.expert], after[part.expert]
    start, length = _longest((before.flatten(1) != after.flatten(1)).any(dim=1))
    rows = before.shape[0]
    return round(240 * float(start) / rows) / 240, round(240 * float(length) / rows) / 240


def _rows_of(part: Part) -> int:
    return part.tensor.matrix_shape[1]


def _rows_that_differ(batch: PairBatch) -> Bool[Tensor, "batch m"]:
    if not isinstance(batch, LargePair):
        return (batch.tuned != batch.base).any(dim=2)
    narrow = batch.stored_base.dtype == batch.stored_tuned.dtype == torch.bfloat16
    marks = batch.changed[0] if narrow else batch.difference.update != 0
    # Few columns settle nearly every row of a healthy update. A sum, which takes a tenth of the time of `any`.
    differ = marks[:, :FIRST_COLUMNS].sum(dim=1) > 0
    left = torch.nonzero(~differ).flatten()
    differ[left] = marks[left].any(dim=1)
    return differ[None]


def _longest(differ: Bool[Tensor, "m"]) -> tuple[Tensor, Tensor]:
    """First row and length of the longest block of rows that do not differ."""
    # Between two rows that differ lie as many that do not as their numbers are apart, less one.
    at = torch.nonzero(differ).flatten()
    ends = torch.cat([at.new_tensor([-1]), at, at.new_tensor([len(differ)])])
    lengths = ends[1:] - ends[:-1] - 1
    longest = lengths.argmax()
    return ends[longest] + 1, lengths[longest]
