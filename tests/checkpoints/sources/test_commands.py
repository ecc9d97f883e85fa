"""The commands of docs/remote.md, run against the bundled checkpoints in a bucket on the loopback."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints.sources.conftest import Bucket
from tests.conftest import FIXTURES

PAGE = (FIXTURES.parent / "docs" / "remote.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith(("    ckptaudit ", "    pytest "))]


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) == 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_runs(command: str, bucket: Bucket, tmp_path: Path) -> None:
    program, *words = shlex.split(command)
    done = subprocess.run(
        [sys.executable, "-m", program, *words],
        cwd=tmp_path, env={**os.environ, "CKPTAUDIT_CACHE": "off"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "s3://bucket/" in done.stdout
    assert "not-a-secret" not in done.stdout + done.stderr
