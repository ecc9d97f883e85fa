"""Servers on the loopback, counting and faulty: a web server with ranges, and a proxy before an S3 server."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Reply:
    """What a server is about to answer; a fault changes it before it is sent."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut_at: int | None = None
    piece: int = 2**30
    pause: float = 0.0


@dataclass(frozen=True)
class Request:
    """What was asked for, its headers in lower case, and how many bytes of a body were sent for it."""

    path: str
    headers: dict[str, str]
    sent: int = 0

    @property
    def ranged(self) -> bool:
        """Whether a part was asked for."""
        return "range" in self.headers


Fault = Callable[[Request, Reply], None]


@dataclass
class Log:
    """Requests in order, and the faults to come: each is applied to the first request that it is meant for."""

    requests: list[Request] = field(default_factory=list)
    faults: list[tuple[Callable[[Request], bool], Fault]] = field(default_factory=list)
    always: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def once(self, fault: Fault, when: Callable[[Request], bool] = lambda request: True) -> None:
        """Apply a fault to one answer."""
        self.faults.append((when, fault))

    def apply(self, request: Request, reply: Reply) -> None:
        """Every fault that is due."""
        with self.lock:
            due = next((one for one in self.faults if one[0](request)), None)
            if due is not None:
                self.faults.remove(due)
        for fault in [*self.always, *([due[1]] if due else [])]:
            fault(request, reply)

    def sent(self, ending: str = "") -> int:
        """Bytes of bodies sent of files with this ending."""
        return sum(request.sent for request in self.requests if request.path.endswith(ending))


@contextmanager
def serving(answer: Callable[[Request], Reply], tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, Log]]:
    """An HTTP/1.1 server on the loopback that answers with a function; its address and its log."""
    log = Log()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            request = Request(self.path, {name.lower(): value for name, value in self.headers.items()})
            reply = answer(request)
            log.apply(request, reply)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            body = reply.body if reply.cut_at is None else reply.body[: reply.cut_at]
            with log.lock:
                log.requests.append(Request(request.path, request.headers, len(body)))
            for at in range(0, len(body), reply.piece):
                self.wfile.write(body[at : at + reply.piece])
                if reply.pause:
                    time.sleep(reply.pause)
            if reply.cut_at is not None:
                self.close_connection = True

        do_HEAD = do_GET

        def log_message(self, *words: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that has hung up is nothing to report."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}", log
    finally:
        server.shutdown()
        server.server_close()


def folder_answer(folder: Path) -> Callable[[Request], Reply]:
    """A web server's answers for the files of a folder: ranges, strong ETags, conditions."""

    def answer(request: Request) -> Reply:
        path = folder / unquote(urlsplit(request.path).path).lstrip("/")
        if not path.is_file():
            return Reply(404, {"Content-Length": "9"}, b"not found")
        body = path.read_bytes()
        tag = f'"{md5(body).hexdigest()}"'
        if request.headers.get("if-match", tag) != tag:
            return Reply(412, {"Content-Length": "0"}, b"")
        return ranged(request, body, {"ETag": tag})

    return answer


def ranged(request: Request, body: bytes, headers: dict[str, str]) -> Reply:
    """A body or the part of it that was asked for."""
    if not request.ranged:
        return Reply(200, {**headers, "Content-Length": str(len(body))}, body)
    first, last = map(int, request.headers["range"].removeprefix("bytes=").split("-"))
    if first >= len(body):
        return Reply(416, {**headers, "Content-Length": "0"}, b"")
    part = body[first : last + 1]
    placed = f"bytes {first}-{first + len(part) - 1}/{len(body)}"
    return Reply(206, {**headers, "Content-Range": placed, "Content-Length": str(len(part))}, part)


OWN = ("connection", "keep-alive", "server", "date", "transfer-encoding")
"""Headers about a connection or a server, which a proxy has of its own."""


def proxy_answer(upstream: str) -> Callable[[Request], Reply]:
    """What another server answers to the same request."""
    host = urlsplit(upstream)

    def answer(request: Request) -> Reply:
        connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=20)
        try:
            connection.request("GET", request.path, headers=request.headers)
            found = connection.getresponse()
            body = found.read()
            kept = {k: v for k, v in found.getheaders() if k.lower() not in OWN}
            return Reply(found.status, {"Content-Length": str(len(body))} | kept, body)
        finally:
            connection.close()

    return answer


def busy(request: Request, reply: Reply) -> None:
    """S3's answer to too many requests."""
    reply.status, reply.body = 503, b"<Error><Code>SlowDown</Code></Error>"
    reply.headers = {"Content-Length": str(len(reply.body)), "Content-Type": "application/xml"}


def cut(request: Request, reply: Reply) -> None:
    """The connection is closed in mid-body."""
    reply.cut_at = len(reply.body) // 2


def without_content_range(request: Request, reply: Reply) -> None:
    """A part that does not say which."""
    reply.headers = {k: v for k, v in reply.headers.items() if k.lower() != "content-range"}


def other_range(request: Request, reply: Reply) -> None:
    """A part one byte shorter than asked for, truthfully labelled."""
    name = next(k for k in reply.headers if k.lower() == "content-range")
    place, size = reply.headers[name].removeprefix("bytes ").split("/")
    first, last = map(int, place.split("-"))
    reply.body = reply.body[:-1]
    reply.headers = {k: v for k, v in reply.headers.items() if k.lower() != "content-length"}
    reply.headers |= {name: f"bytes {first}-{last - 1}/{size}", "Content-Length": str(len(reply.body))}


def longer_body(request: Request, reply: Reply) -> None:
    """More bytes than the label says."""
    reply.body += b"\0"
    reply.headers = {k: v for k, v in reply.headers.items() if k.lower() != "content-length"}
    reply.headers["Content-Length"] = str(len(reply.body))


def ignores_ranges(request: Request, reply: Reply) -> None:
    """A server that sends everything."""
    reply.status = 200
    without_content_range(request, reply)
