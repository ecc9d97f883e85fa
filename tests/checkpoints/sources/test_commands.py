"""The commands of docs/remote.md, run against the bundled checkpoints in a bucket on the loopback."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.checkpoints.sources.stores import HEAD
from tests.checkpoints.sources.conftest import Bucket
from tests.conftest import FIXTURES

PAGE = (FIXTURES.parent / "docs" / "remote.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith(("    ckptaudit ", "    pytest "))]
ONE_LAYER = next(command for command in COMMANDS if " -k " in command)


def run(command: str, folder: Path) -> str:
    """What a command prints. Fails unless it succeeds."""
    program, *words = shlex.split(command)
    done = subprocess.run(
        [sys.executable, "-m", program, *words],
        cwd=folder, env={**os.environ, "CKPTAUDIT_CACHE": "off"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not-a-secret" not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != ONE_LAYER])
def test_a_command_of_the_page_runs(command: str, bucket: Bucket, tmp_path: Path) -> None:
    assert "s3://bucket/" in run(command, tmp_path)


def test_one_layer_costs_the_bytes_of_that_layer(bucket: Bucket, tmp_path: Path) -> None:
    run(ONE_LAYER, tmp_path)
    layer = sum(
        handle.parameters * 2
        for side in ("base", "rlvr-gentle")
        for name, handle in open_checkpoint(FIXTURES / side).tensors.items()
        if ".layers.1." in name
    )
    assert layer <= bucket.log.sent("model.safetensors") <= layer + 2 * (HEAD + 2**16)
