"""How many verdicts ended how, in one line that every report in words shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptaudit.results.records import AuditResult, Summary


def counts(result: AuditResult) -> str:
    """`51 results: 23 passed, 28 failed; 3 decided by an upper bound`; what there is none of is left out."""
    s = result.summary
    ends = [f"{s.passed} passed", *(f"{count} {said}" for count, said in _other_ends(s) if count)]
    kinds = [v.kind for v in result.verdicts]
    bounds = [(kinds.count("upper_bound"), "an upper"), (kinds.count("lower_bound"), "a lower")]
    decided = "".join(f"; {count} decided by {which} bound" for count, which in bounds if count)
    total = len(result.verdicts)
    return f"{total} result{'' if total == 1 else 's'}: {', '.join(ends)}{decided}"


def _other_ends(s: Summary) -> list[tuple[int, str]]:
    errors = "error" if s.errors == 1 else "errors"
    return [
        (s.failed, "failed"),
        (s.errors, errors),
        (s.waived, "waived"),
        (s.warned, "warned"),
        (s.noted, "noted"),
        (s.skipped, "skipped"),
    ]
