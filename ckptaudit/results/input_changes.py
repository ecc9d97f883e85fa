"""Two audits' inputs side by side: which were given to one alone, and which are not the same files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckptaudit.results.inputs import InputRecord, other_files

Records = Sequence[InputRecord]


def input_changes(a: Records, b: Records) -> Iterator[str]:
    """What differs, in sentences; nothing where one of the audits took no digests."""
    if not (a and b):
        return
    for name in dict.fromkeys(record.name for record in (*a, *b)):
        was, now = ([record for record in records if record.name == name] for records in (a, b))
        if name == "bundled":
            yield from (f"the bundled checks differ: {said}" for said in _bundled(was, now))
        elif not was or not now:
            yield f"only the {'first' if was else 'second'} has the input {name}"
        elif said := _changed(was, now):
            yield f"the input {name} differs: {said}"


def _changed(was: Records, now: Records) -> str:
    """The first that is another."""
    if len(was) != len(now):
        return f"{len(was)} given, then {len(now)}"
    pairs = [(x, y) for x, y in zip(was, now, strict=True) if (x.files, x.fingerprint) != (y.files, y.fingerprint)]
    if not pairs:
        return ""
    x, y = pairs[0]
    if x.path != y.path:
        return f"{x.path}, then {y.path}"
    return f"{x.path}: {other_files(x.files, y.files) or 'another fingerprint'}"


def _bundled(was: Records, now: Records) -> Iterator[str]:
    """Those that both audits applied; which these are follows from the profile."""
    before, after = ({file.name: file for record in records for file in record.files} for records in (was, now))
    common = [name for name in before if name in after]
    if said := other_files([before[name] for name in common], [after[name] for name in common]):
        yield said
