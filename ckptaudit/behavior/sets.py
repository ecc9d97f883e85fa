"""How a reading of probes is named after what it is about: all of them, a set, or those that name none."""

from __future__ import annotations

EVERY_PROBE, SET, NO_SET = "probes", "set ", "probes without a set"


def subject_of_set(name: str) -> str:
    """What a reading of a probe set is about, as reports name it."""
    return f"{SET}{name}" if name else NO_SET


def set_of_subject(subject: str) -> str | None:
    """The probe set that a reading is about; None of all probes together."""
    if subject == NO_SET:
        return ""
    return subject.removeprefix(SET) if subject.startswith(SET) else None
