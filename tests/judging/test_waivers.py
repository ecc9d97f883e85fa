"""What a waiver forgives, and what still fails beside it."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

import msgspec
import pytest

from ckptaudit.judging.config import Waiver
from ckptaudit.judging.verdict import Verdict
from ckptaudit.judging.waivers import AppliedWaiver, forgive, unused


def verdict(broken: Iterable[str], outcome: str = "failed") -> Verdict:
    names = sorted(broken)
    return Verdict(
        tuned="run",
        check="drift",
        subject="layers.0",
        outcome=outcome if names else "passed",  # type: ignore[arg-type]
        worst=names[0] if names else "w9",
        value=1.0,
        kind="exact",
        limit=0.1,
        source="ours",
        metric="relative_update_norm",
        sign="<=",
    )


def applied(*, subjects: Iterable[str] = (), tensors: Iterable[str] = (), has_ended: bool = False) -> AppliedWaiver:
    until = datetime.date(2026, 1, 31)
    label = f"waiver of {','.join([*subjects, *tensors])}"
    waiver = Waiver(check="drift", subject="x", until=until, reason="known", label=label)
    return AppliedWaiver(waiver, has_ended, frozenset(subjects), frozenset(tensors), frozenset({"layers.0"}))


def after(broken: set[str], *waivers: AppliedWaiver) -> Verdict:
    return forgive(verdict(broken), waivers, frozenset(broken), lambda excluded: verdict(broken - excluded))


def test_a_waiver_of_the_subject_forgives_all_of_it() -> None:
    found = after({"w0", "w1"}, applied(subjects=["layers.0"]))
    assert found.outcome == "waived"
    assert found.waiver == "waiver of layers.0, until 2026-01-31: known"
    assert not found.closes


def test_a_waiver_of_a_tensor_forgives_that_tensor_alone() -> None:
    assert after({"w0"}, applied(tensors=["w0"])).outcome == "waived"
    left = after({"w0", "w1"}, applied(tensors=["w0"]))
    assert (left.outcome, left.worst) == ("failed", "w1")
    assert "waiver of w0" in left.waiver


def test_several_waivers_forgive_together() -> None:
    found = after({"w0", "w1"}, applied(tensors=["w0"]), applied(tensors=["w1"]))
    assert found.outcome == "waived"
    assert "waiver of w0" in found.waiver
    assert "waiver of w1" in found.waiver


def test_a_waiver_of_what_is_not_broken_is_not_named() -> None:
    found = after({"w0"}, applied(tensors=["w1"]))
    assert (found.outcome, found.waiver) == ("failed", "")


def test_one_that_has_ended_forgives_nothing_and_says_so() -> None:
    found = after({"w0"}, applied(subjects=["layers.0"], has_ended=True))
    assert found.outcome == "failed"
    assert found.closes
    assert "ended on 2026-01-31" in found.waiver


def test_one_that_has_ended_does_not_stop_another() -> None:
    ended = applied(subjects=["layers.0"], has_ended=True)
    assert after({"w0"}, ended, applied(tensors=["w0"])).outcome == "waived"


def test_it_is_unused_only_where_all_that_it_bears_on_was_judged_without_it() -> None:
    waiver = applied(tensors=["w0"])
    used = after({"w0"}, waiver)
    assert unused(waiver, "drift", "run", [verdict([])])
    assert not unused(waiver, "drift", "run", [used])
    assert not unused(waiver, "drift", "run", []), "nothing is known of a verdict that was not asked for"
    assert not unused(waiver, "drift", "run", [verdict(["w0"], "error")]), "nor of one that could not be given"
    elsewhere = msgspec.structs.replace(verdict([]), tuned="another")
    assert not unused(waiver, "drift", "run", [elsewhere])


@pytest.mark.parametrize("broken", [{"w0"}, {"w0", "w1"}])
def test_a_number_that_was_forgiven_stays_what_it_was(broken: set[str]) -> None:
    found = after(broken, applied(subjects=["layers.0"]))
    before = verdict(broken)
    assert (found.value, found.limit, found.worst) == (before.value, before.limit, before.worst)
