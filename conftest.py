"""Shapes in signatures are checked while tests run; users never pay for it."""

from __future__ import annotations

from importlib.util import find_spec

from jaxtyping import install_import_hook

# A gate that is started in this folder loads this file too, where the package alone may be installed.
if find_spec("beartype") is not None:
    # Before anything imports these modules: the hook rewrites them as they are loaded.
    install_import_hook(["ckptaudit.linalg", "ckptaudit.metrics"], "beartype.beartype")
