"""The manifest of OpenSSF model signing (model_signing/signature/v1.0), signed with the same local key."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ckptaudit.checkpoints.digests import IGNORED
from ckptaudit.errors import AttestationError, parameter, printable
from ckptaudit.release.envelope import PASSWORD


def sign_manifest(folder: Path, key: Path, output: Path, ignored: Sequence[str] = ()) -> None:
    """Write the signature of a folder's manifest, for `model_signing verify`; reads the folder once more.

    `ignored` are paths within the folder that are left out. Raises AttestationError without the package, and for a
    key that model signing does not take.
    """
    if find_spec("model_signing") is None:
        raise AttestationError(
            "a model signature needs the package model-signing; pip install 'ckptaudit[attest]'."
        )
    # Through Any, as its functions have no annotations.
    hashing: Any = import_module("model_signing.hashing")
    signing: Any = import_module("model_signing.signing")

    password = os.environ.get(PASSWORD)
    # Annotated as a text by the package, and handed on to a function that takes bytes.
    secret: Any = password.encode() if password else None
    hashed = hashing.Config().set_ignored_paths(paths=[*IGNORED, *ignored], ignore_git_paths=False)
    try:
        signing.Config().use_elliptic_key_signer(private_key=key, password=secret).set_hashing_config(
            hashed.set_allow_symlinks(True)
        ).sign(folder, output)
    except (TypeError, ValueError, OSError) as error:
        raise AttestationError(
            f"{parameter('model_signature')} {printable(output)}: model signing cannot sign "
            f"({printable(error)[:120]}); it takes keys on the curves P-256, P-384 and P-521."
        ) from None
