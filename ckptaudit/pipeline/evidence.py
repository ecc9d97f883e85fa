"""Whether the checks that a profile is asked for have anything to judge by, as far as that is known beforehand."""

from __future__ import annotations

from collections import Counter

from ckptaudit.errors import MeasurementError, parameter
from ckptaudit.judging.plan import AuditPlan
from ckptaudit.judging.profiles import profile_named

SHOWN = 3


def refuse_without_evidence(plan: AuditPlan, profile: str) -> None:
    """Raise MeasurementError where each check of a profile's first file, its own, would be skipped.

    `profile` is empty where none is asked for, or rollouts are judged alone. Every profile holds the integrity
    checks too, and these would be judged; nobody asks for a profile by name for their sake.
    """
    if not profile:
        return
    own = profile_named(profile).checks[0]
    skips = [planned.skip for planned in plan.verdicts if planned.path == own]
    if not skips or not all(skips):
        return
    reasons = [reason for reason, _ in Counter(skips).most_common()]
    more = "; ..." if len(reasons) > SHOWN else ""
    raise MeasurementError(
        f"{parameter('profile')} {profile}: its checks have nothing to judge by: "
        f"{'; '.join(reasons[:SHOWN])}{more}."
    )
