"""Many tuned checkpoints through the gate: steps of a run, siblings, a plot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

NAMES = [f"model.layers.0.self_attn.{role}.weight" for role in ("q_proj", "v_proj")]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[[str, float], Path]:
    """Checkpoints of two matrices; runs of one seed go one way, so many times as far."""
    random = torch.Generator().manual_seed(0)
    base = {name: torch.randn(64, 48, generator=random) for name in NAMES}

    def made(name: str, times: float, seed: int = 1) -> Path:
        random = torch.Generator().manual_seed(seed)
        low = {k: torch.randn(64, 8, generator=random) @ torch.randn(8, 48, generator=random) for k in NAMES}
        folder = pytester.path / name
        folder.mkdir(parents=True)
        save_file({k: w + 1e-4 * times * low[k] for k, w in base.items()}, folder / "model.safetensors")
        return folder

    made("base", 0)
    return made


def gate(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest("--base=base", "--audit-cache=off", *arguments)


SERIES = ("-k", "drift-growth or subspace-locking or sibling", "-v")


def test_the_saves_of_a_run_are_judged_as_its_steps_and_drawn(
    pytester: pytest.Pytester, run: Callable[..., Path]
) -> None:
    for step, times in ((10, 1), (20, 2), (9, 0.9), (40, 30)):
        run(f"out/checkpoint-{step}", times)
    result = gate(pytester, "--tuned=out@all", *SERIES, "--audit-json=a.json", "--audit-plot=p/all.png")

    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "trajectory.toml::drift-growth[[]checkpoint-20:layers.0[]] PASSED*",
            "trajectory.toml::drift-growth[[]checkpoint-40:layers.0[]] FAILED*",
            "note: 4 saves of *out: first failures: drift-growth at checkpoint-40*",
        ]
    )
    # Steps 9 and 10 lie too close together for a rate of growth.
    result.stdout.no_fnmatch_line("*drift-growth[[]checkpoint-10:*")
    (row,) = json.loads(Path("a.json").read_text())["trajectories"]
    assert [step["step"] for step in row["steps"]] == [9, 10, 20, 40]
    assert row["first_failures"] == {"drift-growth": "checkpoint-40"}
    growth = next(s for s in row["series"] if s["metric"] == "drift_growth")
    assert growth["median"][:2] == [None, None]
    assert growth["median"][2] == pytest.approx(1.0, rel=0.2)
    assert Path("p/all.png").read_bytes().startswith(b"\x89PNG")


def test_the_order_given_counts_where_names_have_no_numbers(
    pytester: pytest.Pytester, run: Callable[..., Path]
) -> None:
    tuned = [f"--tuned={run(name, times).name}" for name, times in (("early", 1), ("late", 2))]
    result = gate(pytester, *tuned, "--audit-several=steps", *SERIES)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*drift-growth[[]late:*PASSED*", "note: *no step numbers*counted 1, 2*"])


def test_of_three_runs_the_one_that_went_elsewhere_is_named(
    pytester: pytest.Pytester, run: Callable[..., Path]
) -> None:
    tuned = [f"--tuned={run(f'run-{name}', 3, seed).name}" for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    result = gate(pytester, *tuned, *SERIES, "--audit-json=a.json")
    result.stdout.fnmatch_lines(["siblings.toml::sibling-kinship[[]run-c:model[]] FAILED*"])
    (row,) = json.loads(Path("a.json").read_text())["siblings"]
    assert row["elsewhere"] == ["run-c"]
    apart = gate(pytester, *tuned, "--audit-several=apart", *SERIES)
    apart.stdout.no_fnmatch_line("*sibling-kinship*")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tuned=none-*",), "none-[*]: no folder or file of weights matches"),
        (("--tuned=base@all",), "no checkpoint-N"),
        (("--tuned=run-a", "--tuned=run-a"), "given twice"),
        (("--tuned=run-a", "--audit-plot=p.png"), "no two checkpoints of one run"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    pytester: pytest.Pytester, run: Callable[..., Path], arguments: tuple[str, ...], words: str
) -> None:
    run("run-a", 1)
    result = gate(pytester, *arguments)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: *{words}*"])


def test_a_check_of_several_runs_cannot_judge_one(pytester: pytest.Pytester, run: Callable[..., Path]) -> None:
    run("run-a", 1)
    result = gate(pytester, "trajectory.toml", "--tuned=run-a")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*5 checks: ERROR*", "reason*names no two of*"])


def test_a_reference_joins_its_checks_and_warns_of_its_own_update(
    pytester: pytest.Pytester, run: Callable[..., Path]
) -> None:
    run("tuned", 1)
    run("repeated", 3)
    run("other", 1, seed=2)
    options = ("--tuned=tuned", "-k", "reference", "-v", "--audit-config=none.toml")
    Path("none.toml").write_text("")
    other = gate(pytester, *options, "--audit-reference=other")
    other.stdout.fnmatch_lines(
        ["reference.toml::reference-cosine[[]model[]] PASSED*", "judged: 0 of 2 tensors*", "2 results: 2 passed"]
    )
    repeated = gate(pytester, *options, "--audit-reference=repeated", "--audit-strict")
    assert repeated.ret == 1
    repeated.stdout.fnmatch_lines(["reference-cosine * 1  <= 0.97*"])
    assert gate(pytester, *options, "--audit-reference=nowhere").ret == 4
