"""Conversations through a chat template, by transformers' sandbox in a process of its own with limits on it.

The sandbox keeps a template from files and from Python's inside. It does not keep it from loops that never end or
from strings that fill the memory; the operating system does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence

import msgspec

from ckptaudit.behavior.probe import Message
from ckptaudit.errors import ProbeError

SECONDS = 30.0
SECONDS_EACH = 0.02
"""Processor time of a template: to begin with, and for each conversation."""

PATIENCE = 20
"""How many times the processor time may pass on the clock, on a machine that has other work."""

MEMORY = 4 * 2**30
CHARACTERS = 2**20
"""Bytes that the process may have, and characters that a conversation may become beyond its own tenfold."""

Conversation = tuple[tuple[Message, ...], bool]
"""Messages, and whether the assistant's next turn is begun."""

_CHILD = """
import json, sys
job = json.load(sys.stdin)
try:
    import resource
except ImportError:
    pass
else:
    resource.setrlimit(resource.RLIMIT_AS, (job["memory"],) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (job["seconds"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from transformers.utils.chat_template_utils import render_jinja_template
for turns, opened in job["conversations"]:
    try:
        (text,), _ = render_jinja_template(
            [turns], chat_template=job["template"], add_generation_prompt=opened, **job["tokens"]
        )
        allowed = job["characters"] + 10 * sum(len(turn["content"]) for turn in turns)
        if len(text) > allowed:
            raise ValueError(f"writes {len(text):,} characters, more than the {allowed:,} allowed")
        print(json.dumps([True, text]))
    except Exception as error:
        print(json.dumps([False, (str(error) or type(error).__name__)[:1000]]))
"""


def rendered(
    template: str, tokens: Mapping[str, str], conversations: Sequence[Conversation]
) -> list[tuple[bool, str]]:
    """Each conversation as the template writes it, or False with the template's complaint.

    `tokens` are the special tokens by the names that templates know them under. Raises ProbeError where the
    template goes past its limits of time or memory.
    """
    seconds = int(SECONDS + SECONDS_EACH * len(conversations)) + 1
    job = {
        "template": template,
        "tokens": tokens,
        "conversations": [
            ([{"role": m.role, "content": m.content} for m in c], opened) for c, opened in conversations
        ],
        "memory": MEMORY,
        "seconds": seconds,
        "characters": CHARACTERS,
    }
    output = _run(msgspec.json.encode(job), seconds * PATIENCE)
    try:
        answers = [msgspec.json.decode(line, type=tuple[bool, str]) for line in output.splitlines()]
    except msgspec.DecodeError:
        raise ProbeError("the chat template writes what is no text.") from None
    if len(answers) != len(conversations):
        raise ProbeError("the chat template could not be run to its end.")
    return answers


def _run(job: bytes, patience: float) -> bytes:
    # -P keeps modules of the working directory out.
    command = [sys.executable, "-P", "-c", _CHILD]
    try:
        done = subprocess.run(command, input=job, capture_output=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        raise ProbeError("the chat template does not come to an end.") from None
    if done.returncode:
        raise ProbeError(
            "the chat template takes more time or memory than a template may; write the probes as text."
        )
    return done.stdout
