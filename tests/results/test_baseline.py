"""A new audit against a released one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import ckptaudit
from ckptaudit.errors import BaselineError, CkptAuditError
from ckptaudit.results.json_io import write_json
from tests.conftest import FIXTURES

Pair = tuple[Path, Path]


def released(pair: Pair, folder: Path, *, exact: bool = True) -> Path:
    file = folder / "released.json"
    write_json(ckptaudit.audit(*pair, profile="rlvr", exact=exact, complete=exact, cache="off"), file)
    return file


def stepped(pair: Pair, times: float) -> Path:
    """A run that went the same way so many times as far."""
    before, after = (load_file(path / "model.safetensors") for path in pair)
    folder = pair[1].with_name("new")
    folder.mkdir()
    new = {k: v.float() + times * (after[k].float() - v.float()) for k, v in before.items()}
    save_file(new, folder / "model.safetensors")
    return folder


def outcomes(result: ckptaudit.AuditResult, check: str) -> set[str]:
    return {v.outcome for v in result.verdicts if v.check == check}


def audited(pair: Pair, tuned: Path, file: Path, **more: Any) -> ckptaudit.AuditResult:
    return ckptaudit.audit(pair[0], tuned, profile="rlvr", against=file, complete=False, cache="off", **more)


@pytest.mark.parametrize(("times", "outcome"), [(1.8, "passed"), (2.3, "failed")])
def test_more_than_twice_as_bad_fails_inside_the_limit(
    small_pair: Pair, tmp_path: Path, times: float, outcome: str
) -> None:
    result = audited(small_pair, stepped(small_pair, times), released(small_pair, tmp_path))
    (row,) = (v for v in result.verdicts if (v.check, v.subject) == ("update-size", "layers.0"))

    assert row.outcome == outcome
    assert row.value is not None
    assert row.value < row.limit
    assert row.released is not None
    assert row.released_limit == pytest.approx(2 * row.released)
    assert result.against is not None
    assert result.against.factor == 2


def test_a_bound_never_fails_the_comparison(small_pair: Pair, tmp_path: Path) -> None:
    file = released(small_pair, tmp_path)
    result = audited(small_pair, stepped(small_pair, 1.8), file)
    drift = [v for v in result.verdicts if v.check == "spectral-drift"]
    assert {v.outcome for v in drift} == {"passed"}
    for v in drift:
        assert v.value is not None
        assert v.released_limit is not None
        assert v.value <= v.released_limit


def test_the_same_run_is_never_worse_than_itself(small_pair: Pair, tmp_path: Path) -> None:
    file = released(small_pair, tmp_path)
    alone = ckptaudit.audit(*small_pair, profile="rlvr", complete=False, cache="off")
    beside = audited(small_pair, small_pair[1], file, against_factor=1.0)
    assert [v.outcome for v in beside.verdicts] == [v.outcome for v in alone.verdicts]


def test_counts_are_held_to_their_limit_alone(small_pair: Pair, tmp_path: Path) -> None:
    tensors = load_file(small_pair[0] / "model.safetensors")
    name = next(iter(tensors))
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[0] += 1
    save_file(tensors, tmp_path / "one.safetensors")
    result = audited(small_pair, tmp_path / "one.safetensors", released(small_pair, tmp_path))
    (row,) = (v for v in result.verdicts if v.check == "actually-changed")
    assert (row.value, row.outcome, row.released) == (1, "passed", None)


def test_a_released_bound_is_not_compared_and_the_notes_say_so(small_pair: Pair, tmp_path: Path) -> None:
    file = released(small_pair, tmp_path)
    content = json.loads(file.read_text())
    for v in content["verdicts"]:
        v["kind"] = "upper_bound" if v["check"] == "update-size" else v["kind"]
    file.write_text(json.dumps(content))
    result = audited(small_pair, stepped(small_pair, 2.3), file)
    assert outcomes(result, "update-size") == {"passed"}
    assert any("update-size[layers.0]" in n and "again in exact mode" in n for n in result.notes)


def strange(small_pair: Pair, tmp_path: Path, change: str) -> Path:
    file = released(small_pair, tmp_path)
    content = json.loads(file.read_text())
    if change == "another base":
        content["checkpoints"][0]["fingerprint"] = "0" * 32
    elif change == "no base":
        content["checkpoints"] = []
    elif change == "two runs":
        content["tuned"] = ["a", "b"]
    elif change == "another schema":
        content["schema"] = "other/9"
    file.write_text(json.dumps(content) if change != "no JSON" else "[1, 2")
    return tmp_path / "missing.json" if change == "no file" else file


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("another base", "against another base"),
        ("no base", "does not say which base"),
        ("two runs", "an audit of 2 runs"),
        ("another schema", "schema 'other/9'"),
        ("no JSON", "not the result of an audit"),
        ("no file", "cannot be read"),
    ],
)
def test_what_is_no_audit_of_this_base_is_refused(
    small_pair: Pair, tmp_path: Path, change: str, words: str
) -> None:
    file = strange(small_pair, tmp_path, change)
    with pytest.raises(CkptAuditError) as refused:
        audited(small_pair, small_pair[1], file)
    assert words in str(refused.value)


def test_a_factor_below_1_is_refused(small_pair: Pair, tmp_path: Path) -> None:
    file = released(small_pair, tmp_path)
    with pytest.raises(BaselineError, match="at least 1"):
        audited(small_pair, small_pair[1], file, against_factor=0.5)


def test_the_gate_shows_both_columns_and_fails(pytester: pytest.Pytester, small_pair: Pair, tmp_path: Path) -> None:
    file = released(small_pair, tmp_path)
    new = stepped(small_pair, 2.3)
    pair = [f"--base={small_pair[0]}", f"--tuned={new}", f"--audit-against={file}", "--audit-cache=off"]
    result = pytester.runpytest(*pair, "-k", "update-size and layers.0", "--junitxml=a.xml")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*worse than the released*", "check*worst*released*limit*", "update-size*FAIL*"])
    assert 'name="released_limit"' in Path("a.xml").read_text()
    looser = pytester.runpytest(*pair, "-k", "update-size and layers.0", "--audit-against-factor=3")
    assert looser.ret == 0
    refused = pytester.runpytest(*pair, "--audit-against=nothing.json")
    assert refused.ret == 4


CHECK = """[[check]]
id = "ours"
claim = "The divergence stays small."
source = "ours"
metric = "kl_tuned_base"
at_most = 0.5
roles = ["all"]
per = "probe_set"
breaks_when = "noisy_layer"
remedy = "Look."
"""


@pytest.mark.parametrize("keeps_check", [True, False])
def test_behavior_that_only_the_released_audit_judged_is_named(tmp_path: Path, keeps_check: bool) -> None:
    (tmp_path / "ours.toml").write_text(CHECK)
    (tmp_path / "with.toml").write_text('profile = "integrity"\nchecks = ["ours.toml"]\n')
    (tmp_path / "without.toml").write_text('profile = "integrity"\n')
    pair, probes = (FIXTURES / "base", FIXTURES / "rlvr-gentle"), FIXTURES / "probes" / "retain.jsonl"
    before = ckptaudit.audit(*pair, config=tmp_path / "with.toml", cache="off", inputs={"probes": probes})
    write_json(before, tmp_path / "released.json")
    config = tmp_path / ("with.toml" if keeps_check else "without.toml")
    now = ckptaudit.audit(*pair, config=config, cache="off", against=tmp_path / "released.json")
    said = " ".join(note for note in now.notes if "not compared" in note)
    assert "ours[probes]" in said
    assert "needs probes= FILE" in said
