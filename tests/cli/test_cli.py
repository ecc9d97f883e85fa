"""The `ckptaudit` program."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ckptaudit.cli import main
from ckptaudit.measurement.base_cache import FactorCache


def test_inspect_prints_what_a_checkpoint_holds(capsys: pytest.CaptureFixture[str], fixture_pairs: Path) -> None:
    assert main(["inspect", str(fixture_pairs / "base")]) == 0
    printed = capsys.readouterr().out
    assert "tensors     51" in printed
    assert "parameters  1,614,272" in printed
    assert "layers      4" in printed
    assert "bfloat16 (51)" in printed
    row = next(x for x in printed.splitlines() if x.startswith("model.layers.2.mlp.down_proj.weight"))
    assert row.split() == [
        "model.layers.2.mlp.down_proj.weight",
        "[192,",
        "512]",
        "bfloat16",
        "layers.2",
        "down_proj",
    ]


def test_checks_lists_limits_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checks"]) == 0
    printed = capsys.readouterr().out
    assert "spectral-drift: normalized_spectral_shift <= 0.001" in printed
    assert "update-sparsity: update_sparsity >= 0.275" in printed
    assert "source: arXiv:2606.07082" in printed
    assert {"rlvr.toml", "sft.toml", "integrity.toml"} <= set(printed.splitlines())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "nowhere"], "nowhere: no such file"),
        (["checks", "nowhere.toml"], "nowhere.toml: no such check file"),
        (["cache", "info", "--audit-cache", __file__], "--audit-cache"),
        (["audit"], "--base PATH and --tuned PATH"),
    ],
)
def test_what_cannot_be_done_ends_in_one_line_and_code_4(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(arguments) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ERROR: ")
    assert words in line


@pytest.mark.parametrize("arguments", [[], ["guess"], ["inspect"], ["checks", "--loud"], ["cache"]])
def test_wrong_usage_ends_in_one_line_and_code_4(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 4
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_cache_tells_what_is_kept_and_clears_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    FactorCache(tmp_path).write("ab" * 32, {"s": torch.zeros(1000)})
    where = ["--audit-cache", str(tmp_path)]
    assert main(["cache", "info", *where]) == 0
    folder, holds, limit = capsys.readouterr().out.splitlines()
    assert folder.split() == ["folder", str(tmp_path)]
    assert holds.startswith("holds   1 entry, 4.")
    assert limit == "limit   20.0 GiB"
    assert main(["cache", "clear", *where]) == 0
    assert capsys.readouterr().out.startswith("removed 1 entry, 4.")
    assert main(["cache", "info", *where]) == 0
    assert "0 entries, 0 B" in capsys.readouterr().out


def test_a_cache_that_is_off_has_nothing_to_tell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "info"]) == 0
    assert "off" in capsys.readouterr().out


def test_audit_is_the_pytest_command(fixture_pairs: Path, tmp_path: Path) -> None:
    pair = ["--base", str(fixture_pairs / "base"), "--tuned", str(fixture_pairs / "sft"), "-k", "spectral-drift"]
    runs = [
        subprocess.run([*program, *pair, "-q"], capture_output=True, text=True, cwd=tmp_path, check=False)
        for program in ([sys.executable, "-m", "ckptaudit", "audit"], [sys.executable, "-P", "-m", "pytest"])
    ]
    first, second = ([x for x in r.stdout.splitlines() if " in " not in x] for r in runs)
    assert runs[0].returncode == runs[1].returncode == 1
    assert first == second


def test_a_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    program = [sys.executable, "-P", "-m", "ckptaudit", "checks"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


def test_an_interrupted_command_ends_in_one_line(fixture_pairs: Path, tmp_path: Path) -> None:
    data, output = tmp_path / "p.jsonl", tmp_path / "g.safetensors"
    data.write_text("".join(f'{{"text": "<bos>{n}+{n}="}}\n' for n in range(3000)), encoding="utf-8")
    program = [sys.executable, "-P", "-m", "ckptaudit", "collect", "gradients", "--include=*norm*"]
    given = [f"--model={fixture_pairs / 'base'}", f"--data={data}", f"--output={output}", "--batch-size=1"]
    with subprocess.Popen([*program, *given], stderr=subprocess.PIPE, text=True) as running:
        while running.poll() is None and not output.with_name("g.safetensors.part").exists():
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate()
    assert said.strip().splitlines()[-1:] == ["ckptaudit collect was interrupted."]
    assert "Traceback" not in said
    assert running.returncode == 130


def test_what_nobody_foresaw_ends_in_one_line(
    fixture_pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of\nan input")

    monkeypatch.setattr("ckptaudit.checkpoints.open_checkpoint", broken)
    monkeypatch.setattr("ckptaudit.cli.inspect.open_checkpoint", broken, raising=False)
    assert main(["inspect", str(fixture_pairs / "base")]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1
