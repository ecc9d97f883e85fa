"""Write the reference pages from the code itself, so that they cannot go stale: metrics, checks, options, API."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import ckptaudit
from ckptaudit.cli.gate_spelling import option
from ckptaudit.damages import damages_of
from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.checks import Check
from ckptaudit.judging.profiles import profiles
from ckptaudit.metrics import MatrixMetric, RunsMetric, descriptions, of_scope
from ckptaudit.metrics.metric import Metric, Scope
from ckptaudit.options import AUXILIARY

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from option_pages import options_page  # noqa: E402  # beside this file, wherever it is run from

DESCRIPTIONS = Path(descriptions.__file__).with_name(descriptions.FILE)
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

ROLLOUTS_INTRO = """# Rollouts

Of each step, or of the run, as [Rollouts](rollouts.md) explains. `l` is the log of the trainer's probability of a sampled
token over the engine's.
"""

PROBES_INTRO = """# Probes

Of each probe set, or of all probes together, as [Behavior](behavior.md) explains. `t` is the tuned model and `b` the base,
both after the same tokens; `L(y|x)` is the sum of log-probabilities in nats, `l` the same per token.
"""

SECTIONS = {
    "matrix": METRICS_INTRO,
    "group": GROUPS_INTRO,
    "pair": "# Facts about the pair\n",
    "runs": "# Several runs\n",
    "parity": "# Against other files\n\n[parity.md](parity.md) explains them.\n",
    "artifact": "# The files beside the weights\n",
    "plan": "# The audit itself\n",
    "rollouts": ROLLOUTS_INTRO,
    "probes": PROBES_INTRO,
}
"""How the metrics of a scope are introduced, in the order of the page; others follow under their scope's name."""

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
    """The page of every metric, by what one value is about."""
    rows: list[str] = []
    for scope in sorted(get_args(Scope), key=_position):
        if metrics := of_scope(scope):
            rows.append(SECTIONS.get(scope, f"# Metrics of {scope}\n"))
            rows += [line for metric in metrics.values() for line in _metric(metric)]
    return "\n".join(rows)


def _position(scope: str) -> int:
    known = list(SECTIONS)
    return known.index(scope) if scope in known else len(known)


def _metric(metric: Metric) -> list[str]:
    function = getattr(metric, "compute", None) or getattr(metric, "find", None)
    rows = [f"## {metric.name}\n", *([f"{getattr(function, '__doc__', '')}\n"] if function else [])]
    rows.append(f"- over: {metric.over}" if isinstance(metric, RunsMetric) else f"- unit: {metric.unit}")
    rows.append(f"- formula: `{metric.formula}`")
    if metric.scope != "pair":
        rows.append(f"- source: {metric.source}")
    if metric.needs:
        rows.append(f"- needs: {', '.join(f'`{option(n)} {AUXILIARY[n].metavar}`' for n in metric.needs)}")
    if isinstance(metric, MatrixMetric) and metric.bound is not None:
        words, kind = metric.bound_kind.replace("_", " "), metric.bound_kind
        rows.append(f"- has a rigorous {words} ([how](fast-paths.md)); `kind` is then `{kind}`")
    return [*rows, ""]


def checks_page() -> str:
    """The page of every check, profile by profile, and how the bundled pairs fall."""
    rows = [CHECKS_INTRO]
    for profile in profiles().values():
        rows.append(f"## Profile `{profile.name}`\n")
        rows += [line for path in profile.checks for line in _checks(path)]
    for profile in profiles().values():
        for over, paths in profile.companions.items():
            if paths and over in _OVER:  # what joins for an input is a profile of its own as well
                rows.append(f"## Joining profile `{profile.name}` where --tuned names several {_OVER[over]}\n")
                rows += [line for path in paths for line in _checks(path)]
    rows.append((HERE / "falls.md").read_text(encoding="utf-8"))
    return "\n".join(rows)


def _checks(path: Path) -> list[str]:
    return [line for check in load_checks(path).checks for line in _check(check)]


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
    described: dict[str, str] = {}
    for scope in get_args(Scope):
        described |= damages_of(scope)
    return "\n".join(
        [DAMAGES, "|---|---|", *(f"| `{name}` | {text} |" for name, text in sorted(described.items()))]
    )


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
    """Write the pages, the table of damages in another, and what reports know of metrics."""
    for name, content in pages().items():
        (HERE / name).write_text(content, encoding="utf-8")
    DESCRIPTIONS.write_text(descriptions.written(), encoding="utf-8")
    writing = HERE / "writing-checks.md"
    before, _, rest = writing.read_text(encoding="utf-8").partition(DAMAGES)
    writing.write_text(f"{before}{damages_table()}{BLANK}{rest.partition(BLANK)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
