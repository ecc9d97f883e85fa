"""No command overwrites what it reads, writes two files to one place, or replaces a pipe or a device."""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from ckptaudit.cli import main
from ckptaudit.results.json_io import write_json
from ckptaudit.results.records import AuditResult
from tests.conftest import FIXTURES

PAIR = ["--base", "base", "--tuned", "tuned"]
REPORTS = ["html", "junit", "junit-strict", "markdown", "sarif", "badge", "parquet", "model-card"]


@pytest.fixture
def here(gentle_result: AuditResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with one of each thing that commands read, and a pipe."""
    for name, source in {"base": "base", "tuned": "rlvr-gentle", "log": "rollouts/healthy"}.items():
        shutil.copytree(FIXTURES / source, tmp_path / name)
    write_json(gentle_result, tmp_path / "audit.json")
    (tmp_path / "texts.jsonl").write_text('{"text": "one two three"}\n')
    (tmp_path / "key.pem").write_text("a key")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder: Path) -> dict[str, str]:
    return {str(p): sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def refused(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str) -> None:
    before = content(here)
    assert main(words) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ERROR: ")
    assert why in line
    assert content(here) == before
    assert (here / "pipe").is_fifo()
    assert (here / "device").is_char_device()


WRITING = [
    *(["report", "audit.json", f"--{name}"] for name in REPORTS),
    ["attest", "audit.json", "tuned", "--key", "key.pem", "-o"],
    ["attest", "audit.json", "tuned", "--key", "key.pem", "--model-signature"],
    ["collect", "fisher", "--model", "base", "--data", "texts.jsonl", "-o"],
    ["collect", "gradients", "--model", "base", "--data", "texts.jsonl", "-o"],
    ["probes", "make", "--from-dataset", "texts.jsonl", "-o"],
    ["rollouts", "convert", "log", "-o"],
    ["plan", *PAIR, "-o"],
    ["calibrate", *PAIR, "--overwrite", "-o"],
]


@pytest.mark.parametrize("command", WRITING, ids=" ".join)
@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("pipe", "a pipe, not a regular file"),
        ("device", "a device, not a regular file"),
        ("n" * 300, "File name too long"),
        ("audit.json/x", "Not a directory"),
        ("", "a directory"),
    ],
    ids=["pipe", "device", "too long", "below a file", "empty"],
)
def test_where_no_file_can_be_written(
    here: Path, capsys: pytest.CaptureFixture[str], command: list[str], output: str, why: str
) -> None:
    refused(here, capsys, [*command, output], why)


@pytest.mark.parametrize(
    "words",
    [
        *(["report", "audit.json", f"--{name}", "./audit.json"] for name in REPORTS),
        ["attest", "audit.json", "tuned", "--key", "key.pem", "-o", "key.pem"],
        ["attest", "audit.json", "tuned", "--key", "key.pem", "-o", "audit.json"],
        ["collect", "fisher", "--model", "base", "--data", "texts.jsonl", "-o", "base/model.safetensors"],
        ["collect", "gradients", "--model", "base", "--data", "texts.jsonl", "-o", "base/model.safetensors"],
        ["collect", "gradients", "--model", "base", "--data", "texts.jsonl", "-o", "texts.jsonl"],
        ["probes", "make", "--from-dataset", "texts.jsonl", "-o", "texts.jsonl"],
        ["rollouts", "convert", "log", "-o", "log/rollouts.parquet"],
        ["plan", *PAIR, "-o", "tuned/config.json"],
        ["calibrate", *PAIR, "--overwrite", "-o", "tuned/config.json"],
    ],
    ids=" ".join,
)
def test_what_is_read_is_never_overwritten(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    refused(here, capsys, words, "would be overwritten")


@pytest.mark.parametrize(
    "words",
    [
        ["report", "audit.json", "--html", "x", "--junit", "./x"],
        ["attest", "audit.json", "tuned", "--key", "key.pem", "-o", "x", "--model-signature", "x"],
    ],
)
def test_two_outputs_are_two_files(here: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    refused(here, capsys, words, "two outputs cannot be one file")


def test_shards_leave_the_sides_as_they_are(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *PAIR, "-o", "plan.json"]) == 0
    refused(here, capsys, ["measure", "plan.json", "--shard", "0/1", "-o", "tuned/config.json"], "would be")
    assert main(["measure", "plan.json", "--shard", "0/1", "-o", "part.parquet"]) == 0
    assert main(["measure", "plan.json", "--shard", "0/1", "-o", "part.parquet"]) == 0
    for words in (["--audit-json", "tuned/config.json"], ["--junitxml", "base/model.safetensors"]):
        refused(here, capsys, ["collect", "plan.json", "part.parquet", *words], "would be overwritten")
    both = ["--audit-json", "x", "--junitxml", "x"]
    refused(here, capsys, ["collect", "plan.json", "part.parquet", *both], "two outputs cannot be one file")
    refused(here, capsys, ["collect", "plan.json", "part.parquet", "--junitxml", "pipe"], "a pipe")


def test_a_card_is_edited_and_reports_are_replaced(here: Path) -> None:
    (here / "tuned" / "README.md").write_text("# A model\n")
    for _ in range(2):
        assert main(["report", "audit.json", "--model-card", "tuned/README.md", "--html", "tuned/audit.html"]) == 0
    assert (here / "tuned" / "README.md").read_text().startswith("# A model\n")


def test_no_configuration_takes_the_place_of_a_device(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "ckptaudit.toml").symlink_to("/dev/null")
    refused(here, capsys, ["init", *PAIR, "--yes", "--force"], "a device, not a regular file")
