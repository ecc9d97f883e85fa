"""What cannot be judged ends with exit code 4 and one line that names the file and the mend."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

Break = Callable[[Path], None]


def refused(pytester: pytest.Pytester, *arguments: str | Path, words: tuple[str, ...]) -> None:
    result = pytester.runpytest(*arguments)
    assert result.ret == 4
    (line,) = [x for x in result.errlines if x]
    assert line.startswith("ERROR: ")
    assert all(word in line for word in words), line
    assert "Traceback" not in str(result.stdout) + str(result.stderr)


@pytest.fixture
def base(fixture_pairs: Path) -> Path:
    return fixture_pairs / "base"


@pytest.fixture
def copy(fixture_pairs: Path, pytester: pytest.Pytester) -> Path:
    """A copy of a tuned checkpoint, to be damaged."""
    shutil.copytree(fixture_pairs / "rlvr-gentle", pytester.path / "copy")
    return pytester.path / "copy"


def cut_short(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(100_000)


def corrupt_header(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(8)
        file.write(b"not json at all")


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def index_to(shard: str) -> Break:
    def write(folder: Path) -> None:
        index = {"weight_map": {"model.norm.weight": shard}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return write


def broken_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_short, ("model.safetensors",)),
        (corrupt_header, ("model.safetensors",)),
        (without_weights, ("copy", "no weights")),
        (emptied, ("copy", "empty")),
        (index_to("model-00002.safetensors"), ("index.json", "model-00002.safetensors", "missing")),
        (index_to("../base/model.safetensors"), ("index.json", "outside")),
        (index_to("/etc/passwd"), ("index.json", "outside")),
        (broken_index, ("index.json",)),
    ],
)
def test_a_damaged_checkpoint(
    pytester: pytest.Pytester, base: Path, copy: Path, damage: Break, words: tuple[str, ...]
) -> None:
    damage(copy)
    refused(pytester, "--base", base, "--tuned", copy, words=words)
    refused(pytester, "--base", copy, "--tuned", base, words=words)


def test_a_missing_path(pytester: pytest.Pytester, base: Path) -> None:
    refused(pytester, "--base", base, "--tuned", "nowhere", words=("nowhere", "check the path"))


def test_a_pair_with_nothing_in_common(pytester: pytest.Pytester, base: Path) -> None:
    save_file({"other.weight": torch.ones(2, 2)}, pytester.path / "other.safetensors")
    words = ("no tensor name in common", "other.safetensors")
    refused(pytester, "--base", base, "--tuned", pytester.path / "other.safetensors", words=words)


@pytest.mark.parametrize("given", ["--base", "--tuned"])
def test_only_one_side(pytester: pytest.Pytester, base: Path, given: str) -> None:
    missing = {"--base": "--tuned", "--tuned": "--base"}[given]
    refused(pytester, given, base, words=(missing, "missing"))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--audit-profile", "rl"), ("rl", "release, release_sft", "sft, integrity")),
        (("--audit-device", "tpu"), ("tpu", "cpu")),
        (("--audit-device", "cuda:77"), ("cuda:77",)),
        (("--audit-memory", "plenty"), ("plenty", "512MiB")),
        (("--audit-json", "."), ("--audit-json",)),
        (("--audit-cache", "copy/config.json"), ("--audit-cache", "copy/config.json", "not a folder", "off")),
        (("missing.toml",), ("missing.toml", "no such check file")),
    ],
)
def test_an_option_that_cannot_be_met(
    pytester: pytest.Pytester, base: Path, copy: Path, option: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(pytester, "--base", base, "--tuned", copy, *option, words=words)


def test_a_malformed_check_file(pytester: pytest.Pytester, base: Path, copy: Path) -> None:
    pytester.path.joinpath("bad.toml").write_text("[[check]]\nid = 'x'\nat_most = 'much'\n")
    refused(pytester, "bad.toml", "--base", base, "--tuned", copy, words=("bad.toml", "check x"))


def test_a_malformed_check_file_in_a_folder(pytester: pytest.Pytester, base: Path, copy: Path) -> None:
    pytester.mkdir("ours").joinpath("bad.toml").write_text("[[check]]\nid = \n")
    refused(pytester, "ours", "--base", base, "--tuned", copy, words=("bad.toml", "line 2"))


def test_a_check_file_without_a_pair(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("ours.toml").write_text("[[check]]\n")
    refused(pytester, "ours.toml", words=("ours.toml", "--base"))


def test_pytest_settings_inside_a_checkpoint_are_not_obeyed(pytester: pytest.Pytester, copy: Path) -> None:
    (copy / "pytest.ini").write_text("[pytest]\naddopts = -k nothing\n")
    result = pytester.runpytest("--base", copy, "--tuned", copy, "--audit-profile=rlvr")
    # Here pytest has read them already: the command's start-up file is not in force within a process.
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: *pytest.ini: lies beside the weights of *may not say how it is judged*"])


def test_shapes_that_disagree_are_judged_and_not_a_crash(pytester: pytest.Pytester, base: Path, copy: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"] = torch.ones(3, 5)
    save_file(tensors, copy / "model.safetensors")
    result = pytester.runpytest("--base", base, "--tuned", copy, "--audit-profile=rlvr")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "judged*shape_mismatches, tensors; limit <= 0",
            "*model.layers.2.mlp.up_proj.weight",
            "*shapes differ, base [[]512, 192[]], tuned [[]3, 5[]]",
            "not aligned: model.layers.2.mlp.up_proj.weight*",
        ]
    )
    result.assert_outcomes(passed=58, failed=1)


def test_a_nan_is_a_failure_where_it_is_counted_and_an_error_where_it_blinds(
    pytester: pytest.Pytester, base: Path, copy: Path
) -> None:
    from safetensors.torch import load_file

    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, copy / "model.safetensors")
    result = pytester.runpytest("--base", base, "--tuned", copy, "--audit-json", "a.json")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*ERROR*", "reason*the tuned tensor has 1 NaN or infinite entries"])
    verdicts = json.loads(Path("a.json").read_text())["verdicts"]
    outcomes = {v["check"]: v["outcome"] for v in verdicts if v["subject"] == "layers.2"}
    assert {v["outcome"] for v in verdicts if v["subject"] == "layers.1"} == {"passed"}
    assert outcomes.pop("finite") == "failed"
    assert outcomes.pop("norms-and-biases") == "passed"
    assert set(outcomes.values()) == {"error"}


def test_a_hostile_tensor_name_cannot_drive_the_terminal(pytester: pytest.Pytester) -> None:
    name = "layers.0.\x1b[31mq_proj\n::rlvr.toml::forged[x] PASSED.weight"
    save_file({name: torch.ones(4, 4)}, pytester.path / "a.safetensors")
    result = pytester.runpytest("--base", "a.safetensors", "--tuned", "a.safetensors", "-v")
    assert "\x1b[31mq_proj" not in str(result.stdout)
    assert not any(line.startswith("::rlvr.toml::forged") for line in result.outlines)
