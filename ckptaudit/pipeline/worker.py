"""A worker process: opens what it is sent first, then measures what it is sent, until the pipe is closed.

Its libraries are loaded before it is asked for anything: whoever started it loads the same meanwhile.
"""

from __future__ import annotations

import os
import sys

from ckptaudit.measurement.process_workers import receive, send
from ckptaudit.pipeline.sent_work import open_work


def main() -> None:
    """Serve standard input. What libraries print goes to standard error: the output is the answers' own."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    spec = receive(sys.stdin.buffer)
    if spec is None:
        return
    refused, measure = open_work(spec)
    send(answers, refused.encode())
    while (task := receive(sys.stdin.buffer)) is not None:
        send(answers, measure(task))


if __name__ == "__main__":
    main()
