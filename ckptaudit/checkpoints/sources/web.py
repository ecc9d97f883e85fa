"""Files of a web server by ranges: what is asked for, and what an answer must say to be believed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.message import Message
from typing import Any
from urllib.parse import quote

from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.checkpoints.sources.connections import Answer, Connections
from ckptaudit.checkpoints.sources.stores import HEAD, Opened, TransientError, changed
from ckptaudit.errors import CheckpointError

_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_BUSY = (408, 425, 429, 500, 502, 503, 504)


class WebStore:
    """The files below one address. `pinned` where the address itself says which contents are meant."""

    def __init__(self, origin: str, headers: Mapping[str, str] | None = None, *, pinned: bool = False) -> None:
        self.url, self.pinned = origin, pinned
        self._connections = Connections(origin, headers or {})

    def open(self, key: str) -> Opened:
        """Size, ETag and first bytes, by one request."""
        with self._asked(key, 0, HEAD, {}) as answer:
            if answer.status == 416:
                return Opened(0, _tag(answer.headers), b"")
            tag = "pinned" if self.pinned else _tag(answer.headers)
            if not tag:
                raise CheckpointError(
                    f"{self._shown(key)}: the server gives neither ETag nor Last-Modified, so that a change "
                    "between two reads would not be noticed; download the checkpoint and audit it here."
                )
            first, last, size = self._placed(key, answer)
            _refuse_other(first, last, 0, min(HEAD, size))
            return Opened(size, tag, answer.body(min(HEAD, size)))

    def read(self, key: str, start: int, view: memoryview, opened: Opened) -> None:
        """A range under the condition of the ETag, or of the time of the last change."""
        condition = {} if self.pinned else _condition(opened.tag)
        with self._asked(key, start, start + len(view), condition) as answer:
            if answer.status in (412, 416):
                raise changed(self._shown(key), opened.tag, "another")
            first, last, size = self._placed(key, answer)
            tag = opened.tag if self.pinned else _tag(answer.headers)
            if (tag, size) != (opened.tag, opened.size):
                raise changed(self._shown(key), opened.tag, tag or "another")
            _refuse_other(first, last, start, len(view))
            view[:] = answer.body(len(view))

    def listing(self, prefix: str) -> Mapping[str, int] | None:
        """A web server lists nothing."""
        return None

    def document(self, key: str, limit: int) -> Any:
        """A JSON document of the server's own, read complete and bounded. Raises OSError or ValueError."""
        return json.loads(self.content(key, limit))

    def content(self, key: str, limit: int) -> bytes:
        """A small file without ranges. Raises OSError, also where it is larger."""
        with self._connections.get(quote(key, safe="/?=&%"), {}) as answer:
            self._refuse(key, answer)
            size = answer.headers.get("Content-Length", "")
            if not size.isascii() or not size.isdecimal() or len(size) > 12 or int(size) > limit:
                raise OSError(f"an answer of {clipped(size) or 'unknown'} bytes, where at most {limit:,} are read")
            return answer.body(int(size))

    def _asked(self, key: str, start: int, end: int, conditions: Mapping[str, str]) -> Answer:
        answer = self._connections.get(quote(key), {"Range": f"bytes={start}-{end - 1}", **conditions})
        if answer.status not in (412, 416):
            self._refuse(key, answer)
        return answer

    def _refuse(self, key: str, answer: Answer) -> None:
        if answer.status in (200, 206) and answer.headers.get("Content-Encoding", "identity") == "identity":
            return
        with answer:
            said = f"the server answered {answer.status}"
            if answer.status in (404, 410):
                raise FileNotFoundError(f"{said} for {self._shown(key)}")
            if answer.status in (401, 403, 407):
                raise PermissionError(f"access refused ({said})")
            if answer.status in _BUSY:
                pause = answer.headers.get("Retry-After", "")
                raise TransientError(said, float(pause) if pause.isascii() and pause.isdecimal() else 0.0)
            raise OSError(f"{said}, or compressed what must be read by ranges")

    def _placed(self, key: str, answer: Answer) -> tuple[int, int, int]:
        """First byte, last byte and size of the file, as Content-Range states them."""
        stated = answer.headers.get("Content-Range", "")
        match = _RANGE.fullmatch(stated)
        if answer.status == 206 and match is not None:
            return int(match[1]), int(match[2]), int(match[3])
        what = "ignores ranges" if answer.status == 200 else f"sent no valid Content-Range ('{clipped(stated)}')"
        raise CheckpointError(
            f"{self._shown(key)}: the server {what}, and only parts of files are read remotely; download the "
            "checkpoint, or serve it by one that supports byte ranges."
        )

    def _shown(self, key: str) -> str:
        return f"{self.url}/{clipped(key)}"


def _refuse_other(first: int, last: int, start: int, length: int) -> None:
    if (first, last + 1) != (start, start + length):
        raise TransientError(f"the server sent bytes {first:,} to {last:,}, others than were asked for")


def _tag(headers: Message) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""


def _condition(tag: str) -> dict[str, str]:
    """A weak ETag matches nothing by the standard: it is compared with the answer's, as is the time of a change."""
    if tag.startswith('"'):
        return {"If-Match": tag}
    return {} if tag.startswith("W/") else {"If-Unmodified-Since": tag}
