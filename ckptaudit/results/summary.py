"""How many verdicts ended how, as a record and in one line."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ckptaudit.judging.verdict import Verdict


class Summary(msgspec.Struct, frozen=True):
    """How many verdicts ended how; `failed` counts what closes the gate, `warned`, `noted` what does not."""

    passed: int
    failed: int
    skipped: int
    errors: int
    waived: int = 0
    warned: int = 0
    noted: int = 0

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> Summary:
        """Count the outcomes."""
        outcomes = [v.outcome for v in verdicts]
        open_ones = [v for v in verdicts if v.outcome == "failed" and not v.closes]
        noted = sum(v.severity == "info" for v in open_ones)
        return cls(
            passed=outcomes.count("passed"),
            failed=outcomes.count("failed") - len(open_ones),
            skipped=outcomes.count("skipped"),
            errors=outcomes.count("error"),
            waived=outcomes.count("waived"),
            warned=len(open_ones) - noted,
            noted=noted,
        )


def counts(verdicts: Sequence[Verdict]) -> str:
    """`51 results: 23 passed, 28 failed; 3 decided by an upper bound`; what there is none of is left out."""
    s = Summary.of(verdicts)
    ends = [f"{s.passed} passed", *(f"{count} {said}" for count, said in _other_ends(s) if count)]
    kinds = [v.kind for v in verdicts]
    bounds = [(kinds.count("upper_bound"), "an upper"), (kinds.count("lower_bound"), "a lower")]
    decided = "".join(f"; {count} decided by {which} bound" for count, which in bounds if count)
    total = len(verdicts)
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
