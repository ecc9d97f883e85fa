"""Promotion of a release whose gate is open: an alias in MLflow's model registry, or a message to a webhook."""

from __future__ import annotations

import hashlib
import hmac
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import msgspec

from ckptaudit.errors import PromotionError, parameter, printable
from ckptaudit.results.gate import answer
from ckptaudit.results.records import AuditResult

SECRET = "CKPTAUDIT_WEBHOOK_SECRET"
"""The environment variable with the secret by which a message is sealed."""

SEAL = "X-Ckptaudit-Signature-256"
SECONDS = 30


class Closed(msgspec.Struct, frozen=True):
    """Why nothing is promoted."""

    cause: str


def refusal(result: AuditResult) -> Closed | None:
    """None where the gate is open; else the checks that keep it closed."""
    found = answer(result.verdicts)
    if found.is_open:
        return None
    checks = dict.fromkeys(v.check for v in found.closing)
    return Closed(", ".join(map(printable, checks)) or found.cause)


def facts_of(result: AuditResult) -> dict[str, Any]:
    """What is told of a release: the answer, by which profile, and which files."""
    tuned = next((c for c in result.checkpoints if c.side == "tuned"), None)
    base = next((c for c in result.checkpoints if c.side == "base"), None)
    return {
        "gate": "open" if answer(result.verdicts).is_open else "closed",
        "profile": result.about.profile if result.about else "",
        "audited": result.about.started if result.about else "",
        "version": result.about.versions.get("ckptaudit", "") if result.about else "",
        "tuned": result.tuned[0] if len(result.tuned) == 1 else list(result.tuned),
        "tuned_fingerprint": tuned.fingerprint if tuned else "",
        "tuned_sha256": tuned.digest if tuned else "",
        "base_fingerprint": base.fingerprint if base else "",
        "base_sha256": base.digest if base else "",
        "passed": result.summary.passed,
        "failed": result.summary.failed + result.summary.errors,
        "waived": result.summary.waived,
        "warned": result.summary.warned,
        "parameters_judged": min((c.share for c in result.coverage), default=0.0),
    }


def promote_in_mlflow(result: AuditResult, *, model: str, version: str, alias: str, store: str | None) -> None:
    """Tag a version of a registered model with what was found, then give it the alias.

    Raises PromotionError where the gate is closed, without the package, and for what MLflow refuses.
    """
    _refuse_closed(result)
    if find_spec("mlflow") is None:
        raise PromotionError("the registry needs the package mlflow; pip install 'ckptaudit[mlflow]'.")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=store, registry_uri=store)
        for name, value in facts_of(result).items():
            client.set_model_version_tag(model, version, f"ckptaudit.{name}", str(value))
        # Last: whoever follows the alias finds the tags.
        client.set_registered_model_alias(model, alias, version)
    except (MlflowException, OSError, ImportError) as error:
        why = printable(" ".join(str(error).split()))[:200]
        raise PromotionError(f"{printable(model)} version {printable(version)}: MLflow refuses ({why}).") from None


def send_to_webhook(result: AuditResult, url: str) -> int:
    """POST the facts as JSON; the answer's status. Sealed by HMAC-SHA256 where CKPTAUDIT_WEBHOOK_SECRET is set.

    Raises PromotionError where the gate is closed, and where the message was not accepted.
    """
    _refuse_closed(result)
    if urlsplit(url).scheme not in ("http", "https"):
        raise PromotionError(f"{parameter('url')} {printable(url)}: an http or https address is required.")
    body = msgspec.json.encode(facts_of(result))
    headers = {"Content-Type": "application/json", "User-Agent": "ckptaudit"}
    if secret := os.environ.get(SECRET):
        headers[SEAL] = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
    try:
        # A redirection would hand the message to somebody who was not named.
        with build_opener(_NoRedirect).open(Request(url, body, headers, method="POST"), timeout=SECONDS) as told:
            return int(told.status)
    except (URLError, OSError, ValueError) as error:
        raise PromotionError(
            f"{printable(url)}: the message was not accepted ({printable(error)[:200]})."
        ) from None


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""


def _refuse_closed(result: AuditResult) -> None:
    closed = refusal(result)
    if closed is not None:
        raise PromotionError(f"the gate is closed by {closed.cause}; nothing is promoted.")


def same_files(result: AuditResult, folder: Path) -> str:
    """What differs between the folder and the audited files, by their digests; "" if nothing does."""
    from ckptaudit.checkpoints.digests import file_digests
    from ckptaudit.results.inputs import difference

    tuned = [c for c in result.checkpoints if c.side == "tuned"]
    if len(tuned) != 1 or not tuned[0].files:
        return "the result has no digest of them"
    now = {file.name: file.sha256 for file in file_digests(folder)}
    return difference({file.name: file.sha256 for file in tuned[0].files}, now)
