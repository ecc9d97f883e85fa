"""What stands at the end of the terminal output, at any width, in any log."""

from __future__ import annotations

import msgspec
import pytest
from rich.text import Text

from ckptaudit.report.heatmap import broken_checks
from ckptaudit.report.runs import run_rows
from ckptaudit.report.terminal import render_summary
from ckptaudit.results.records import AuditResult, StepRecord, Trajectory
from ckptaudit.results.summary import counts
from tests.synthetic import check, large, measured, result, verdict


def rendered(found: AuditResult, **options: object) -> list[str]:
    settings: dict[str, object] = {"width": 100, "colour": False} | options
    return render_summary(found, **settings).splitlines()  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_numbers_stay_whole(supervised: AuditResult, width: int) -> None:
    lines = rendered(supervised, width=width)
    about = ("base ", "tuned ", "not aligned", "note", "gate", f"{len(supervised.verdicts)} results")
    assert max(len(x) for x in lines if not x.startswith(about)) <= width
    text = "\n".join(lines)
    assert "FAIL 4/4" in text
    for number in ("0.02109", "<= 0.001", "21x the limit"):
        assert number in text


@pytest.mark.parametrize("width", [80, 120])
def test_a_row_for_each_check(supervised: AuditResult, width: int) -> None:
    lines = rendered(supervised, width=width)
    start = next(i for i, line in enumerate(lines) if line.startswith("check  "))
    (brief,) = (line for line in lines if line.startswith("passed, nothing found: "))
    without = brief.removeprefix("passed, nothing found: ").split(", ")
    for name in {v.check for v in supervised.verdicts}:
        assert sum(line.startswith(f"{name} ") for line in lines[start:]) + without.count(name) == 1
    assert without == ["finite", "aligned", "same-shapes"]


def test_the_full_name_stands_where_it_fits_and_the_place_where_not(supervised: AuditResult) -> None:
    wide, narrow = (
        next(x for x in rendered(supervised, width=w) if x.startswith("spectral-drift  ")) for w in (140, 80)
    )
    assert wide.endswith("exact  model.layers.1.self_attn.v_proj.weight")
    assert narrow.endswith("L1 v_proj")


def test_the_answer_comes_last_with_the_worst(supervised: AuditResult, gentle_result: AuditResult) -> None:
    assert rendered(supervised)[-1] == "gate CLOSED, worst: spectral-drift at layers.1, 21x the limit"
    assert rendered(gentle_result)[-1] == "gate open"


def test_other_tests_that_failed_keep_the_gate_shut(gentle_result: AuditResult) -> None:
    assert rendered(gentle_result, exit_code=1)[-1] == "gate CLOSED: pytest ends with code 1"


def test_nothing_judged_is_no_open_gate() -> None:
    assert rendered(result([verdict("layers.0", None, outcome="skipped")]))[-1] == "gate CLOSED: nothing was judged"


def test_quiet_lists_what_does_not_hold_and_quieter_only_the_answer(supervised: AuditResult) -> None:
    quiet = rendered(supervised, verbosity=-1)
    assert any(x.startswith("spectral-drift") for x in quiet)
    assert not any(x.startswith("off-principal-energy") for x in quiet)
    assert len(rendered(supervised, verbosity=-2)) == 2


def test_colour_says_nothing_that_the_letters_do_not(supervised: AuditResult) -> None:
    plain, coloured = (render_summary(supervised, width=100, colour=c) for c in (False, True))
    assert "\x1b" not in plain
    assert "\x1b[" in coloured
    assert [x.rstrip() for x in Text.from_ansi(coloured).plain.splitlines()] == plain.splitlines()


def test_a_map_shows_where_it_broke(supervised: AuditResult) -> None:
    lines = rendered(supervised)
    start = lines.index("where 6 checks failed")
    cells = {line.split()[0]: line.split()[1:] for line in lines[start + 2 : start + 14]}
    assert cells["v_proj"] == ["#"] * 4
    assert cells["input_layernorm"] == ["."] * 4
    # Of layer 1 the bias of the query projection holds; 0.0497 against the limit of 0.05.
    assert cells["q_proj.bias"] == ["o", ".", "o", "o"]


def test_each_check_has_its_own_map_when_verbose(supervised: AuditResult) -> None:
    text = "\n".join(rendered(supervised, verbosity=1))
    assert "where spectral-drift failed" in text
    assert "where norms-and-biases failed" in text


@pytest.mark.parametrize("width", [40, 80])
def test_many_layers_and_experts_fit(width: int) -> None:
    lines = rendered(large(layers=61, experts=256), width=width)
    row = next(x for x in lines if x.startswith("up_proj"))
    assert len(row) <= width
    assert row.count("#") == 1
    # Layer 7 stands in the column that its number belongs to.
    per_column = 1 if width == 80 else 2
    assert row.split()[1].index("#") == 7 // per_column
    assert (f"a column is {per_column} layers, the worst of them" in lines) == (per_column > 1)


def test_what_is_waived_warned_or_unknown_is_told_apart() -> None:
    names = [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(3)]
    found = result(
        [
            verdict("layers.0", 0.5, outcome="waived", worst=names[0]),
            verdict("layers.1", None, worst=names[1], reason="a NaN"),
            verdict("layers.2", 0.0015, worst=names[2], name="soft", severity="warn"),
        ],
        [measured(n, i, "q_proj", v) for i, (n, v) in enumerate(zip(names, (0.5, None, 0.0015), strict=True))],
        [check("drift"), check("soft")],
    )
    lines = rendered(found)
    assert any(x.startswith("soft") and "WARN" in x for x in lines)
    assert next(x for x in lines if x.startswith("q_proj")).split()[1:] == ["w", "!", "o"]
    assert any("3 results: 0 passed, 1 error, 1 waived, 1 warned" in x for x in lines)
    assert lines[-1] == "gate CLOSED, worst: drift at layers.1, which cannot be judged"


def test_the_map_holds_what_stands_outside_the_layers_in_line_with_the_rest(supervised: AuditResult) -> None:
    lines = rendered(supervised)
    rows = {line.split()[0]: line for line in lines[lines.index("where 6 checks failed") :] if line}
    assert rows["norm"].index(".") == rows["v_proj"].index("#") == rows["layer"].index("0")


def test_what_is_only_noted_is_not_drawn(supervised: AuditResult) -> None:
    assert all(
        v.severity != "info" or v.check not in broken_checks(supervised, v.tuned) for v in supervised.verdicts
    )


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        (["passed"], "1 result: 1 passed"),
        (["passed", "failed", "failed"], "3 results: 1 passed, 2 failed"),
        (["error", "error", "skipped"], "3 results: 0 passed, 2 errors, 1 skipped"),
    ],
)
def test_the_count_names_what_there_is(outcomes: list[str], words: str) -> None:
    assert counts([verdict(f"layers.{i}", 1.0, outcome=o) for i, o in enumerate(outcomes)]) == words


def test_bounds_are_counted_by_kind() -> None:
    found = [msgspec.structs.replace(verdict("layers.0", 1e-5), kind=k) for k in ("upper_bound", "lower_bound")]
    assert counts(found).endswith("; 1 decided by an upper bound; 1 decided by a lower bound")


def test_several_runs_have_a_row_each_and_the_failing_run_is_named_first() -> None:
    names = ("out/run-a", "out/run-b")
    found = result([verdict("layers.0", 0.5 if n == "out/run-b" else 1e-5, tuned=n) for n in names], tuned=names)
    lines = rendered(found)
    start = next(i for i, line in enumerate(lines) if line.split()[:3] == ["run", "verdict", "failed"])
    assert [line.split()[:4] for line in lines[start + 1 : start + 3]] == [
        ["run-b", "CLOSED", "1/1", "drift"],
        ["run-a", "open", "0/1", "drift"],
    ]
    assert sum(x.startswith("drift ") for x in lines) == 1
    assert lines[-1].startswith("gate CLOSED for run-b, worst: drift at layers.0, 500x the limit")
    apart = rendered(found, verbosity=1)
    assert apart.index("run out/run-a") < apart.index("run out/run-b")


def test_steps_of_a_run_stay_in_their_order() -> None:
    names = ("out/checkpoint-1", "out/checkpoint-2")
    steps = tuple(StepRecord(name, name[-12:], i + 1) for i, name in enumerate(names))
    trajectory = Trajectory(name="out", steps=steps, counted=False, first_failures={}, series=())
    found = result([verdict("layers.0", 0.5 if n[-1] == "2" else 1e-5, tuned=n) for n in names], tuned=names)
    rows = run_rows(msgspec.structs.replace(found, trajectories=(trajectory,)))
    assert [row.label for row in rows] == ["checkpoint-1", "checkpoint-2"]


def test_a_hostile_name_cannot_forge_a_line() -> None:
    name = "model.layers.0.\x1b[2J\nrlvr.toml::forged PASSED.weight"
    found = result([verdict("layers.0", 0.5, worst=name)], [measured(name, 0, "\x1b[2J\nforged", 0.5)])
    for width in (40, 80, 200):
        text = render_summary(found, width=width, colour=False)
        assert "\x1b" not in text
        assert not any(line.startswith("forged") for line in text.splitlines())


def test_a_bound_beyond_the_limit_is_not_drawn_as_a_failure() -> None:
    names = [f"model.layers.0.self_attn.{role}.weight" for role in ("q_proj", "k_proj")]
    rows = [measured(names[0], 0, "q_proj", 0.02), measured(names[1], 0, "k_proj", 0.07)]
    rows[1] = msgspec.structs.replace(rows[1], kind="upper_bound")
    lines = rendered(result([verdict("layers.0", 0.02, worst=names[0])], rows))
    cells = {line.split()[0]: line.split()[1] for line in lines if line.startswith(("q_proj", "k_proj"))}
    assert cells == {"q_proj": "#", "k_proj": "?"}
    assert any("? known only as a bound beyond the limit" in line for line in lines)


def test_a_file_is_not_named_by_its_ending() -> None:
    missing = verdict("model", 2, name="beyond", limit=0, severity="info", worst="tokenizer.json")
    found = result([msgspec.structs.replace(missing, metric="weights_only")], [])
    narrow = next(line for line in rendered(found, width=46) if line.startswith("beyond "))
    assert narrow.endswith(".json")
    assert not narrow.endswith(" json")
