"""DSSE envelopes: a statement with a signature by a local key, in PEM. securesystemslib signs and verifies."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptaudit.errors import AttestationError, parameter, printable
from ckptaudit.foreign_files import read_regular
from ckptaudit.release.statement import PAYLOAD

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]

PASSWORD = "CKPTAUDIT_KEY_PASSWORD"
"""The environment variable that holds the password of an encrypted key."""

MAX_KEY = 64 * 2**10
MAX_ENVELOPE = 256 * 2**20
NEW_KEY = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem"


def need_signing() -> None:
    """Raise AttestationError if the packages are missing that sign."""
    for module in ("securesystemslib", "cryptography"):
        if find_spec(module) is None:
            raise AttestationError(f"signatures need the package {module}; pip install 'ckptaudit[attest]'.")


def signer_of(path: Path) -> CryptoSigner:
    """What signs with a private key: EC, Ed25519 or RSA. Raises AttestationError, naming the file."""
    need_signing()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

    password = os.environ.get(PASSWORD)
    try:
        key: Any = load_pem_private_key(_read(path, MAX_KEY), password.encode() if password else None)
        return CryptoSigner(key)
    except (TypeError, ValueError) as error:
        raise AttestationError(
            f"{parameter('key')} {printable(path)}: no private key in PEM, or its password is not in {PASSWORD} "
            f"({printable(error)[:100]}); `{NEW_KEY}` makes one."
        ) from None


def public_key_of(path: Path) -> SSlibKey:
    """A public key. Raises AttestationError, naming the file."""
    need_signing()
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

    try:
        return SSlibKey.from_crypto(load_pem_public_key(_read(path, MAX_KEY)))
    except ValueError as error:
        raise AttestationError(
            f"{parameter('key')} {printable(path)}: no public key in PEM ({printable(error)[:100]}); "
            "`openssl pkey -in key.pem -pubout -out key.pub` makes one of a private key."
        ) from None


def signed(payload: bytes, signer: CryptoSigner) -> bytes:
    """The envelope of an in-toto statement, as JSON."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(payload, PAYLOAD, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), indent=1).encode() + b"\n"


def open_envelope(path: Path) -> Envelope:
    """An envelope from a file, nothing verified. Raises AttestationError if it is none."""
    need_signing()
    from securesystemslib.dsse import Envelope

    content = _read(path, MAX_ENVELOPE)
    try:
        envelope = Envelope.from_dict(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AttestationError(f"{printable(path)}: no DSSE envelope ({type(error).__name__}).") from None
    except Exception as error:
        # securesystemslib has an error of its own, whose module has moved between releases.
        raise AttestationError(f"{printable(path)}: no DSSE envelope ({printable(error)[:100]}).") from None
    if envelope.payload_type != PAYLOAD:
        raise AttestationError(
            f"{printable(path)}: an envelope of {printable(envelope.payload_type)[:80]}, not of {PAYLOAD}."
        )
    return envelope


def is_signed_by(envelope: Envelope, key: SSlibKey) -> bool:
    """Whether one of the signatures is this key's, over the payload as it is."""
    from securesystemslib.exceptions import VerificationError

    try:
        envelope.verify([key], 1)
    except VerificationError:
        return False
    return True


def _read(path: Path, limit: int) -> bytes:
    try:
        return read_regular(path, limit)
    except OSError as error:
        raise AttestationError(
            f"{printable(path)}: cannot be read ({printable(error.strerror or error)})."
        ) from None
