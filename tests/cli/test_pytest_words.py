"""The words of a pytest command, settled before pytest sees them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.cli.pytest_words import CHECKPOINTS, joined, settled

OPTIONS = st.sampled_from([*CHECKPOINTS, "--base", "--tuned", "--tun", "--audit-json", "--audit-conf"])
VALUES = st.text("ab/.-+*@=' é", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--base", "b", "--tuned", "t"], ["--base=b", "--tuned=t"]),
        (["--base=b", "--tuned", "t", "-q"], ["--base=b", "--tuned=t", "-q"]),
        (["--bas", "b", "--tun", "t"], ["--bas=b", "--tun=t"]),
        (["--audit-fisher", "f", "x.toml"], ["--audit-fisher=f", "x.toml"]),
        (["--audit-exact", "x.toml"], ["--audit-exact", "x.toml"]),
        (["--audit-strict", "--base", "b"], ["--audit-strict", "--base=b"]),
        (["-k", "drift", "--tuned", "-k"], ["-k", "drift", "--tuned=-k"]),
        (["--tuned"], ["--tuned"]),
        (["--", "--base", "b"], ["--", "--base", "b"]),
        ([], []),
    ],
)
def test_values_are_joined_to_their_options(words, wanted):
    assert joined(words) == wanted


@given(st.lists(st.tuples(OPTIONS, VALUES), max_size=6))
def test_no_value_is_left_as_a_word(pairs):
    words = [word for pair in pairs for word in pair]
    assert joined(words) == [f"{option}={value}" for option, value in pairs]
    assert joined(joined(words)) == joined(words)


def test_inside_a_checkpoint_no_settings_are_taken(tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    for start in (tuned, tuned / "below"):
        start.mkdir(exist_ok=True)
        found = settled(["--base=b", f"--tuned={tuned}"], start)
        assert found[:2] == ["--noconftest", f"--config-file={os.devnull}"]
    assert settled(["--base=b", f"--tuned={tuned}"], tmp_path) == ["--base=b", f"--tuned={tuned}"]


@pytest.mark.parametrize("form", ["{}/model.safetensors", "{}*", "b+{}", "{}@all", "{}@latest"])
def test_whatever_form_names_it(form: str, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "model.safetensors").touch()
    found = settled(["--base=b", f"--tuned={form.format(tuned)}", str(tuned / "x.toml")], tmp_path)
    assert "--noconftest" in found


def test_what_is_no_audit_keeps_its_settings(tmp_path: Path) -> None:
    assert settled(["tests", "-k", "base"], tmp_path) == ["tests", "-k", "base"]
