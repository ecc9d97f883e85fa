"""Check files: what is accepted, and how each mistake is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckptaudit.errors import CheckDefinitionError
from ckptaudit.judging.check_files import load_checks

GOOD = {
    "id": '"drift"',
    "claim": '"Nothing moves."',
    "source": '"ours"',
    "metric": '"normalized_spectral_shift"',
    "at_most": "1e-3",
    "roles": '["mlp"]',
    "per": '"layer"',
    "breaks_when": '"scale_spectrum"',
    "remedy": '"Look."',
}


def written(folder: Path, /, name: str = "mine.toml", **changes: Any) -> Path:
    table = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    path = folder / name
    path.write_text("\n".join(["[[check]]", *(f"{k} = {v}" for k, v in table.items())]))
    return path


def complaint(path: Path) -> str:
    with pytest.raises(CheckDefinitionError) as caught:
        load_checks(path)
    text = str(caught.value)
    assert "\n" not in text
    assert path.name in text
    return text


def test_a_good_file_loads(tmp_path: Path) -> None:
    (check,) = load_checks(written(tmp_path)).checks
    assert (check.id, check.limit, check.sign) == ("drift", 1e-3, "<=")


@pytest.mark.parametrize("key", ["id", "claim", "source", "metric", "roles", "per", "breaks_when", "remedy"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    assert key in complaint(written(tmp_path, **dict[str, Any]({key: None})))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": '"normalised_spectral_shift"'}, ["metric", "normalized_spectral_shift"]),
        ({"at_most": '"small"'}, ["at_most", "float"]),
        ({"at_most": "true"}, ["at_most"]),
        ({"at_most": "nan"}, ["at_most", "finite"]),
        ({"at_most": "inf"}, ["at_most", "finite"]),
        ({"at_most": None}, ["at_most", "at_least", "exactly one"]),
        ({"at_least": "0.1"}, ["at_most", "at_least", "exactly one"]),
        ({"per": '"tensor"'}, ["per", "matrix, layer, model, step, run"]),
        ({"judge_by": '"median"'}, ["judge_by", "weighted_mean"]),
        ({"breaks_when": '"scale_spectrun"'}, ["breaks_when", "scale_spectrum"]),
        ({"claims": '"x"'}, ["claims", "did you mean claim"]),
        ({"roles": "[]"}, ["roles"]),
        ({"source": '""'}, ["source"]),
        ({"id": '"a b"'}, ["id", "letters"]),
        ({"only_where": '{ metric = "changed", at_least = 1 }'}, ["only_where", "changed_entries"]),
        ({"metric": '"unaligned_tensors"'}, ["per", "model"]),
        ({"metric": '"mismatch_k3"'}, ["per", "a quantity of a step"]),
        ({"metric": '"mismatch_k3"', "per": '"step"', "judge_by": '"mean"'}, ["judge_by", "leave the key out"]),
        ({"per": '"step"'}, ["per", "of rollouts"]),
    ],
)
def test_a_mistake_names_key_and_what_is_allowed(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    text = complaint(written(tmp_path, **changes))
    assert all(word in text for word in words), text


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, metric='"x"', breaks_when='"y"')
    second = written(tmp_path, "second.toml", id='"other"', at_most=None).read_text()
    path.write_text(f"{path.read_text()}\n{second}")
    text = complaint(path)
    assert "metric" in text
    assert "breaks_when" in text
    assert "check other" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = = 1\n[[check]]", ["line 1"]),
        ("", ["[[check]]"]),
        ("checks = 1", ["checks"]),
        ("check = 1", ["[[check]]"]),
        ("include = 'x'", ["include", "list"]),
        ("include = ['missing.toml']", ["missing.toml", "no such check file"]),
        ("include = ['mine.toml']", ["includes itself"]),
    ],
)
def test_a_malformed_file_is_named_with_its_fault(tmp_path: Path, content: str, words: list[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(CheckDefinitionError) as caught:
        load_checks(path)
    assert all(word in str(caught.value) for word in words), caught.value


def test_an_id_used_twice_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(f"{path.read_text()}\n{path.read_text()}")
    assert "used twice" in complaint(path)


def test_an_included_check_can_be_left_out_by_id(tmp_path: Path) -> None:
    written(tmp_path, "theirs.toml")
    both = tmp_path / "both.toml"
    both.write_text('include = ["theirs.toml"]\nexclude = ["drift"]\n' + written(tmp_path, id='"own"').read_text())
    assert [check.id for check in load_checks(both).checks] == ["own"]


def test_leaving_out_what_is_not_included_is_a_mistake(tmp_path: Path) -> None:
    written(tmp_path, "theirs.toml")
    both = tmp_path / "both.toml"
    both.write_text('include = ["theirs.toml"]\nexclude = ["drfit"]\n')
    assert "did you mean drift" in complaint(both)
