"""Write the reference pages from the code itself, so that they cannot go stale: metrics, checks, options, API."""

from __future__ import annotations

import sys
from pathlib import Path

import ckptaudit
from ckptaudit.damages.runs import RUN_DAMAGES, RUN_DESCRIPTIONS
from ckptaudit.damages.weights import PERTURBATIONS
from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.checks import Check
from ckptaudit.judging.profiles import COMPANIONS, PROFILES, bundled_checks
from ckptaudit.metrics import GROUP_METRICS, PAIR_FACTS, REGISTRY, RUNS_METRICS
from ckptaudit.pairing.auxiliary import INPUTS

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from option_pages import options_page  # noqa: E402  # beside this file, wherever it is run from

DAMAGES = "| name | what it does to the tuned side |"
BLANK = "\n\n"

_OVER = {"steps": "saves of one run", "siblings": "runs from one base"}

METRICS_INTRO = """# Metrics

`W0` is the base weight, `W1` the tuned weight, `D = W1 - W0`, of shape `m x n`, `r = min(m, n)`; `s` are singular
values, descending; `U0k` and `V0k` the leading `k` left and right singular vectors of `W0`. Everything is computed in
float64 from the stored values. Angles and energies use `k = min(512, max(1, r // 8))`, the principal mask the rank
`min(64, max(1, r // 8))` and `alpha = 0.5`. A vector (a bias, a norm) counts as one row and has the entry metrics alone.

Each formula says what the value is where it would divide by nothing. A matrix with a NaN or an infinity on either side
has `nonfinite_entries` and `differing_entries` and no other value: checks on the rest report that they cannot judge.
Entries tied at the threshold of a mask enter in order of position, row by row, so that a mask has exactly
`floor(alpha m n)` entries.
"""

GROUPS_INTRO = """# Metrics of weights taken together

One number for a matrix, a layer or the whole model as one vector, from inputs beside the pair; [claims.md](claims.md)
explains them.
"""

CHECKS_INTRO = """# Checks

A check is a claim, a metric and a limit. Each names the damage under which it must fail (`breaks_when`); a test proves
that it holds on a good pair and is broken by that damage. Limits come from published figures; where one is ours, the
note says so. "Published" figures are of models of some billion parameters.
"""


API_INTRO = """# Python API

The public names of the package, all of them importable from `ckptaudit`. Anything else may change without notice.
Importing the package loads no torch; a name is loaded when it is first used.
"""


def metrics_page() -> str:
    """The page of every metric."""
    rows = [METRICS_INTRO]
    for metric in REGISTRY.values():
        rows += [f"## {metric.name}\n", f"{metric.compute.__doc__}\n"]
        rows += [f"- unit: {metric.unit}", f"- formula: `{metric.formula}`", f"- source: {metric.source}"]
        if metric.bound is not None:
            words, kind = metric.bound_kind.replace("_", " "), metric.bound_kind
            rows.append(f"- has a rigorous {words} ([how](fast-paths.md)); `kind` is then `{kind}`")
        rows.append("")
    rows.append(GROUPS_INTRO)
    for whole in GROUP_METRICS.values():
        needs = ", ".join(f"`{INPUTS[name].usage}`" for name in whole.inputs)
        rows += [f"## {whole.name}\n", f"{whole.compute.__doc__}\n", f"- unit: {whole.unit}"]
        rows += [f"- formula: `{whole.formula}`", f"- source: {whole.source}", f"- needs: {needs}", ""]
    rows.append("# Facts about the pair\n")
    for fact in PAIR_FACTS.values():
        rows += [f"## {fact.name}\n", f"{fact.findings.__doc__}\n", f"- unit: {fact.unit}"]
        rows += [f"- formula: `{fact.formula}`", ""]
    rows.append("# Several runs\n")
    for across in RUNS_METRICS.values():
        rows += [f"## {across.name}\n", f"{across.compute.__doc__}\n", f"- over: {across.over}"]
        rows += [f"- formula: `{across.formula}`", f"- source: {across.source}", ""]
    return "\n".join(rows)


def checks_page() -> str:
    """The page of every check, profile by profile, and how the bundled pairs fall."""
    rows = [CHECKS_INTRO]
    for profile, name in PROFILES.items():
        own = load_checks(bundled_checks() / name).checks
        rows.append(f"## Profile `{profile}`\n")
        rows += [line for check in own for line in _check(check)]
    for profile, joining in COMPANIONS.items():
        for over, name in joining.items():
            rows.append(f"## Joining profile `{profile}` where --tuned names several {_OVER[over]}\n")
            rows += [line for check in load_checks(bundled_checks() / name).checks for line in _check(check)]
    rows.append((HERE / "falls.md").read_text(encoding="utf-8"))
    return "\n".join(rows)


def api_page() -> str:
    """The page of the public names; the site's generator fills in signatures and docstrings."""
    return "\n".join([API_INTRO, *(f"::: ckptaudit.{name}\n" for name in ckptaudit.__all__)])


def pages() -> dict[str, str]:
    """Every generated page, by file name."""
    return {
        "metrics.md": metrics_page(),
        "checks.md": checks_page(),
        "options.md": options_page(),
        "api.md": api_page(),
    }


def damages_table() -> str:
    """The named damages, as a table."""
    rows = [DAMAGES, "|---|---|"]
    return "\n".join([*rows, *(f"| `{name}` | {_what(name)} |" for name in (*PERTURBATIONS, *RUN_DAMAGES))])


def _what(name: str) -> str:
    from ckptaudit.damages import weights as perturbations

    text: str = (perturbations.DESCRIPTIONS | RUN_DESCRIPTIONS)[name]
    return text


def _check(check: Check) -> list[str]:
    how = {"worst": "the worst tensor", "mean": "the mean", "weighted_mean": "the parameter-weighted mean"}
    scope = f"{', '.join(check.roles)}; per {check.per}, by {how.get(check.judge_by, 'the sum')}"
    rows = [f"### {check.id}\n", f"{check.claim}\n"]
    rows += [f"- limit: `{check.metric} {check.sign} {check.limit:g}`", f"- scope: {scope}"]
    if check.only_where is not None:
        rows.append(f"- only where: `{check.only_where.metric} >= {check.only_where.at_least:g}`")
    rows += [f"- {label}: {text}" for label, text in _origins(check) if text]
    if (past := check.never_beyond) is not None:
        rows.append(f"- never calibrated past: {past.value:g} ({past.source})")
    return [*rows, f"- broken by: `{check.breaks_when}`", f"- remedy: {check.remedy}", ""]


def _origins(check: Check) -> list[tuple[str, str]]:
    return [("source", check.source), ("published", check.published), ("note", check.note)]


def main() -> None:
    """Write the pages, and the table of damages in another."""
    for name, content in pages().items():
        (HERE / name).write_text(content, encoding="utf-8")
    writing = HERE / "writing-checks.md"
    before, _, rest = writing.read_text(encoding="utf-8").partition(DAMAGES)
    writing.write_text(f"{before}{damages_table()}{BLANK}{rest.partition(BLANK)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
