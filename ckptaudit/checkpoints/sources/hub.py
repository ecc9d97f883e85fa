"""Models of the Hugging Face hub by ranges, pinned to the commit that a revision stood for at opening."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from ckptaudit.checkpoints.json_files import clipped, reason
from ckptaudit.checkpoints.sources.stores import MAX_LISTED, Opened, with_retries
from ckptaudit.checkpoints.sources.urls import Url, is_loopback
from ckptaudit.checkpoints.sources.web import WebStore
from ckptaudit.errors import CheckpointError

ENDPOINT = "https://huggingface.co"
MAX_ANSWER = 64 * 2**20
SMALL = 4 * 2**20
"""Files up to this size are read complete: the hub serves those that are not LFS files without ranges."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubStore:
    """The files of one model at one commit; names and sizes are the hub's own list of them."""

    def __init__(self, url: Url) -> None:
        self.url = str(url).removesuffix(f"/{url.key}") if url.key else str(url)
        endpoint = _endpoint()
        headers = _authorization()
        revision = quote(url.revision or "main", safe="")
        asked = f"api/models/{url.root}/revision/{revision}?blobs=true"
        try:
            answer = with_retries(lambda: WebStore(endpoint, headers).document(asked, MAX_ANSWER))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.url}: the hub gave no model of that name and revision ({reason(error)}); check the "
                "spelling, the connection and HF_TOKEN."
            ) from error
        self.commit, self._sizes = _files(self.url, answer)
        self._files = WebStore(f"{endpoint}/{url.root}/resolve/{self.commit}", headers, pinned=True)

    def open(self, key: str) -> Opened:
        """Size, commit and first bytes."""
        if key not in self._sizes:
            raise FileNotFoundError(f"no {clipped(key)} at commit {self.commit}")
        size = self._sizes[key]
        if size <= SMALL:
            return Opened(size, self.commit, self._files.content(key, size))
        found = self._files.open(key)
        if found.size != size:
            raise CheckpointError(
                f"{self.url}/{clipped(key)}: not of the size that the hub lists; audit again later."
            )
        return Opened(size, self.commit, found.head)

    def read(self, key: str, start: int, view: memoryview, opened: Opened) -> None:
        """A range; the commit in the address says of which contents."""
        self._files.read(key, start, view, Opened(opened.size, "pinned", b""))

    def listing(self, prefix: str) -> Mapping[str, int] | None:
        """The files of the commit below a folder."""
        return {key: size for key, size in self._sizes.items() if not prefix or key.startswith(f"{prefix}/")}


def _endpoint() -> str:
    endpoint = os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")
    split = urlsplit(endpoint)
    if split.scheme != "https" and not is_loopback(split.hostname or ""):
        raise CheckpointError("HF_ENDPOINT must be an https address.")
    return endpoint


def _authorization() -> dict[str, str]:
    """The token of the environment, or the one that `hf auth login` stored."""
    token = os.environ.get("HF_TOKEN", "")
    if not token:
        try:
            from huggingface_hub import get_token

            token = get_token() or ""
        except ImportError:
            pass
    return {"Authorization": f"Bearer {token}"} if token else {}


def _files(url: str, answer: object) -> tuple[str, dict[str, int]]:
    facts = answer if isinstance(answer, dict) else {}
    commit, listed = facts.get("sha"), facts.get("siblings")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit) or not isinstance(listed, list):
        raise CheckpointError(f"{url}: the hub's answer names no commit and files; audit again later.")
    found = {
        one["rfilename"]: one["size"]
        for one in listed[:MAX_LISTED]
        if isinstance(one, dict) and isinstance(one.get("rfilename"), str) and type(one.get("size")) is int
    }
    return commit, {key: size for key, size in found.items() if 0 <= size < 2**60}
