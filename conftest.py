"""Shapes in signatures are checked while tests run; users never pay for it."""

from __future__ import annotations

from jaxtyping import install_import_hook

# Before anything imports these modules: the hook rewrites them as they are loaded.
install_import_hook(["ckptaudit.linalg", "ckptaudit.metrics"], "beartype.beartype")
