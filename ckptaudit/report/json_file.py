"""The machine-readable report."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ckptaudit.result import AuditResult


def write_json(result: AuditResult, path: Path) -> None:
    """Write the result to `path`, whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.part")
    aside.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    aside.replace(path)


def read_json(path: Path) -> AuditResult:
    """Read a result back. Raises msgspec.DecodeError or OSError."""
    return msgspec.json.decode(path.read_bytes(), type=AuditResult)
