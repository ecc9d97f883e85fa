"""A worker process: opens what it is sent first, then measures what it is sent, until the pipe is closed."""

from __future__ import annotations

import gc
import os
import sys

from ckptaudit.measurement.process_workers import receive, send


def main() -> None:
    """Serve standard input. What libraries print goes to standard error: the output is the answers' own."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Before anything is asked: whoever started this loads the same meanwhile. Without looking for garbage in it.
    gc.disable()
    from ckptaudit.pipeline.sent_work import open_work

    gc.freeze()
    gc.enable()
    spec = receive(sys.stdin.buffer)
    if spec is None:
        return
    refused, measure = open_work(spec)
    send(answers, refused.encode())
    while (task := receive(sys.stdin.buffer)) is not None:
        send(answers, measure(task))


if __name__ == "__main__":
    main()
