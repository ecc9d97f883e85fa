"""URLs of checkpoints: which schemes are read, and what may stand in one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.errors import CheckpointError

BUCKETS = ("s3", "gs", "az")
SCHEMES = (*BUCKETS, "https", "http", "hf")
_SCHEME = re.compile(r"([a-z][a-z0-9+.\-]{0,15})://", re.IGNORECASE)
_HUB = re.compile(
    r"(?P<name>[\w.\-]{1,96}/[\w.\-]{1,96}?)(?:@(?P<revision>[\w.\-]{1,200}))?(?:/(?P<key>.*))?", re.ASCII
)
MAX_URL = 2000


@dataclass(frozen=True, slots=True)
class Url:
    """A URL in its parts: `root` is the bucket, the host or the hub's model; `key` the rest, decoded."""

    scheme: str
    root: str
    key: str
    revision: str = ""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.scheme}://{self.root}{at}" + (f"/{self.key}" if self.key else "")


def is_url(text: str) -> bool:
    """Whether a word names something remote, sound or not."""
    return _SCHEME.match(text) is not None


def parse_url(text: str) -> Url:
    """The parts of a URL. Raises CheckpointError for what is not read, above all for credentials inside one."""
    match = _SCHEME.match(text)
    scheme = match[1].lower() if match else ""
    if scheme not in SCHEMES:
        raise CheckpointError(f"{clipped(scheme)}://: no scheme that is read; use one of {', '.join(SCHEMES)}.")
    if len(text) > MAX_URL or any(c in text for c in "?#") or "@" in text.partition("://")[2].partition("/")[0]:
        # Never shown: what follows the question mark or stands before the @ is often a signature or a password.
        raise CheckpointError(
            f"{scheme}://...: a URL with user, query or fragment, or a very long one; pass the plain address, and "
            "leave credentials to the environment, since addresses end up in reports."
        )
    return _hub(text) if scheme == "hf" else _plain(text, scheme)


def checked_key(key: str, where: str) -> str:
    """A key without slashes at its ends, of sound parts alone. Raises CheckpointError for the others."""
    parts = [part for part in key.strip("/").split("/") if part]
    if any(part in (".", "..") or "\\" in part or not part.isprintable() for part in parts):
        raise CheckpointError(f"{where}: no place for a checkpoint is named '{clipped(key)}'; check the address.")
    return "/".join(parts)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _plain(text: str, scheme: str) -> Url:
    try:
        split = urlsplit(text)
        host, _ = split.hostname, split.port
    except ValueError as error:
        raise CheckpointError(f"{clipped(text)}: no valid address ({clipped(error)}); check it.") from error
    if not host or not split.netloc.isprintable():
        raise CheckpointError(f"{clipped(text)}: names no bucket or host; check the address.")
    if scheme == "http" and not is_loopback(host):
        raise CheckpointError(
            f"{clipped(text)}: plain http lets anybody on the way change the weights; use https (http is read from "
            "this machine alone)."
        )
    key = split.path if scheme in BUCKETS else unquote(split.path)
    return Url(scheme, split.netloc, checked_key(key, f"{scheme}://{clipped(split.netloc)}"))


def _hub(text: str) -> Url:
    match = _HUB.fullmatch(text.partition("://")[2].strip("/"))
    if match is None:
        raise CheckpointError(f"{clipped(text)}: not of the form hf://OWNER/MODEL[@REVISION][/FOLDER]; check it.")
    return Url("hf", match["name"], checked_key(match["key"] or "", "hf://"), match["revision"] or "")
