"""Packages that only some reports need."""

from __future__ import annotations

from importlib.util import find_spec

from ckptaudit.errors import ReportError


def need(module: str, *, extra: str) -> None:
    """Raise ReportError if a package is missing that the extra brings."""
    if find_spec(module) is None:
        raise ReportError(f"this report needs the package {module}; pip install 'ckptaudit[{extra}]'.")
