"""HTTP connections that are kept open between requests, and the redirects that are followed."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import weakref
from collections.abc import Mapping
from email.message import Message
from ipaddress import ip_address
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.checkpoints.sources.stores import READ_SECONDS, TransientError
from ckptaudit.checkpoints.sources.urls import is_loopback
from ckptaudit.errors import CheckpointError

MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
DRAINED = 2**16
SLOWEST = 2**16
"""Bytes a second that a body may take, beside the time that is waited for any answer."""

PLAIN = {"Accept-Encoding": "identity", "User-Agent": "ckptaudit"}


class Answer:
    """One response: status, headers, and a body that is read once or not at all.

    A connection whose answer was read to its end goes back to those that wait for the next request.
    """

    def __init__(self, connection: http.client.HTTPConnection, idle: list[http.client.HTTPConnection]) -> None:
        self._connection, self._idle = connection, idle
        self._response = connection.getresponse()
        self.status: int = self._response.status
        self.headers: Message = self._response.headers

    def body(self, length: int) -> bytes:
        """Exactly so many bytes. Raises TransientError where fewer arrive, or where more would follow."""
        try:
            found = self._pieces(length)
            left = self._response.length
        except TransientError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise TransientError(f"the connection was cut ({type(error).__name__})") from error
        if len(found) != length or left:
            raise TransientError(f"{len(found) + (left or 0):,} bytes arrived where {length:,} were asked for")
        return found

    def _pieces(self, length: int) -> bytes:
        """The body piece by piece, within a time that grows with its length: a trickle never ends by itself."""
        allowed = READ_SECONDS + length / SLOWEST
        found, ends = bytearray(), time.monotonic() + allowed
        while len(found) < length and (piece := self._response.read1(length - len(found))):
            found += piece
            if time.monotonic() > ends:
                raise TransientError(f"only {len(found):,} of {length:,} bytes in {allowed:.1f} s")
        return bytes(found)

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Hand the connection back after a body that was read, or is short enough to be; else close it."""
        try:
            left = self._response.length
            is_sound = kind is None or not issubclass(kind, TransientError)
            if is_sound and left is not None and left <= DRAINED:
                self._response.read()
                self._response.close()
                self._idle.append(self._connection)
                return
        except (OSError, http.client.HTTPException):
            pass
        self._response.close()
        self._connection.close()


class Connections:
    """Requests below one address. The headers given, credentials among them, go to its own host alone."""

    def __init__(self, origin: str, headers: Mapping[str, str]) -> None:
        self.origin, self._headers = urlsplit(origin), dict(headers)
        self._idle: dict[tuple[str, str], list[http.client.HTTPConnection]] = {}
        weakref.finalize(self, _close_all, self._idle)

    def get(self, path: str, headers: Mapping[str, str]) -> Answer:
        """The answer to a GET, redirects followed. Raises TransientError, or CheckpointError for a bad redirect."""
        url = urlsplit(f"{self.origin.geturl()}/{path}")
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._once(url, headers)
            if answer.status not in REDIRECTS:
                return answer
            with answer:
                url = self._followed(url, answer.headers.get("Location", ""))
        raise self._refused(f"one address after the other, more than {MAX_REDIRECTS} times")

    def _once(self, url: SplitResult, headers: Mapping[str, str]) -> Answer:
        own = self._headers if (url.scheme, url.netloc) == (self.origin.scheme, self.origin.netloc) else {}
        idle = self._idle.setdefault((url.scheme, url.netloc), [])
        connection = _waiting(idle) or _connection(url)
        try:
            connection.request("GET", urlunsplit(("", "", *url[2:4], "")), headers={**PLAIN, **own, **headers})
            return Answer(connection, idle)
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise CheckpointError(
                f"{self.origin.geturl()}: its certificate is not trusted ({clipped(error.verify_message)})."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            said = getattr(error, "strerror", None) or type(error).__name__
            raise TransientError(f"no answer from {clipped(url.netloc)} ({clipped(said)})") from error

    def _followed(self, url: SplitResult, location: str) -> SplitResult:
        """Where a redirect leads. Only to https, or on the same host; never into a network that is not public."""
        try:
            target = urlsplit(urljoin(url.geturl(), location))
            host, _ = target.hostname or "", target.port
        except ValueError:
            raise self._refused("an invalid address") from None
        if target.scheme not in (("https", "http") if self.origin.scheme == "http" else ("https",)) or not host:
            raise self._refused(f"{clipped(target.scheme) or 'nothing'}://, which is not followed from here")
        if target.username is not None or (target.scheme == "http" and not is_loopback(host)):
            raise self._refused("an address that is not followed from here")
        if host != self.origin.hostname and not _is_public(host):
            raise self._refused("a host of a private network")
        return target

    def _refused(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.origin.geturl()}: redirects to {what}; pass the final address.")


def _waiting(idle: list[http.client.HTTPConnection]) -> http.client.HTTPConnection | None:
    try:
        return idle.pop()
    except IndexError:
        return None


def _close_all(idle: Mapping[tuple[str, str], list[http.client.HTTPConnection]]) -> None:
    for connections in idle.values():
        for connection in connections:
            connection.close()


def _connection(url: SplitResult) -> http.client.HTTPConnection:
    host = url.hostname or ""
    proxy = getproxies().get(url.scheme) if not (is_loopback(host) or proxy_bypass(host)) else None
    if url.scheme == "http":
        return http.client.HTTPConnection(host, url.port, timeout=READ_SECONDS)
    context = ssl.create_default_context()
    if proxy is None:
        return http.client.HTTPSConnection(host, url.port, timeout=READ_SECONDS, context=context)
    by = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    connection = http.client.HTTPSConnection(by.hostname or "", by.port, timeout=READ_SECONDS, context=context)
    connection.set_tunnel(host, url.port)
    return connection


def _is_public(host: str) -> bool:
    """Whether all addresses of a host are public ones; unknown where a proxy resolves names, and then not asked."""
    if getproxies().get("https") and not proxy_bypass(host):
        return not is_loopback(host)
    try:
        return all(ip_address(found[4][0]).is_global for found in socket.getaddrinfo(host, None))
    except (OSError, ValueError):
        return False
