"""A line of a file of probes, decoded strictly: every mistake is a sentence that names the key."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ckptaudit.behavior.probe import Kind, Message, Probe, Role, Safety, Text
from ckptaudit.errors import ProbeError, nearest, printable

MAX_LINE = 16 * 2**20
"""Bytes of a line."""

SHAPES: dict[frozenset[str], Kind] = {
    frozenset({"text"}): "text",
    frozenset({"messages"}): "text",
    frozenset({"prompt"}): "prompt",
    frozenset({"prompt", "completion"}): "completion",
    frozenset({"prompt", "chosen", "rejected"}): "preference",
    frozenset({"chosen", "rejected"}): "preference",
    frozenset({"prompt", "completion", "label"}): "labelled",
    frozenset({"prompt", "completions", "ranking"}): "ranking",
    frozenset({"prompt", "choices", "answer"}): "choice",
}
"""Which keys make which kind of probe."""

MAIN = tuple(dict.fromkeys(key for shape in SHAPES for key in sorted(shape)))
ONLY_WITH: dict[str, tuple[Kind, ...]] = {
    "raters": ("preference",),
    "principles": ("preference",),
    "prefill": ("prompt", "completion", "preference", "labelled", "ranking", "choice"),
    "reference": ("prompt", "completion", "preference", "labelled", "ranking", "choice"),
}

Name = Annotated[str, Meta(min_length=1, max_length=200)]


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Role
    content: str


Messages = Annotated[list[_Message], Meta(min_length=1, max_length=4096)]
Several = Annotated[list[str | Messages], Meta(min_length=2, max_length=1024)]


class _Line(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    text: str | None = None
    messages: Messages | None = None
    prompt: str | Messages | None = None
    completion: str | Messages | None = None
    chosen: str | Messages | None = None
    rejected: str | Messages | None = None
    label: bool | None = None
    completions: Several | None = None
    ranking: Annotated[list[int], Meta(max_length=1024)] | None = None
    choices: Several | None = None
    answer: int | None = None
    id: Name | int | None = None
    set: Name | None = None
    safety: Safety | None = None
    raters: Annotated[float, Meta(ge=0, le=1)] | None = None
    principles: Annotated[dict[Name, Literal[1, -1, None]], Meta(max_length=256)] | None = None
    prefill: Annotated[str, Meta(min_length=1)] | None = None
    reference: str | None = None
    weight: Annotated[float, Meta(ge=1e-9, le=1e9)] | None = None


KEYS = _Line.__struct_fields__
_DECODER = msgspec.json.Decoder(_Line)


def read_line(line: bytes, number: int, where: str) -> Probe:
    """The probe of a line. Raises ProbeError, whose sentence begins with `where`."""
    try:
        return _probe(_decoded(line), number)
    except _Wrong as error:
        raise ProbeError(f"{where}: {error}") from None


class _Wrong(Exception):
    """What is wrong with a line, in words that go on after its place."""


def _decoded(line: bytes) -> _Line:
    if len(line) > MAX_LINE:
        raise _Wrong(f"{len(line):,} bytes, more than the {MAX_LINE:,} that a line may have.")
    try:
        return _DECODER.decode(line)
    except msgspec.ValidationError as error:
        raise _Wrong(_explained(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Wrong(f"not JSON ({printable(error)}).") from None


def _explained(said: str) -> str:
    """The decoder's message with the key in front, and for an unknown key the nearest known one."""
    what, _, place = said.partition(" - at `$")
    path = place.rstrip("`").removeprefix(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what, re.S)
    if unknown:
        known = _Message.__struct_fields__ if path else KEYS
        inside = f' in "{printable(path)}"' if path else ""
        return f'unknown key "{printable(unknown[1])[:80]}"{inside}; {nearest(unknown[1][:80], known)}'
    what = printable(what[0].lower() + what[1:])
    return f'"{printable(path)}": {what}.' if path else f"{what}."


def _probe(line: _Line, number: int) -> Probe:
    kind = _kind(line)
    _refuse_misplaced(line, kind)
    prompt, completions = _parts(line, kind)
    _check_texts(prompt, completions, kind)
    _check_judgement(line, completions)
    digest = blake2b(msgspec.json.encode(msgspec.structs.replace(line, id=None)), digest_size=16).hexdigest()
    return Probe(
        line=number,
        prompt=prompt,
        completions=completions,
        kind=kind,
        id=digest if line.id is None else str(line.id),
        set=line.set or "",
        label=line.label,
        ranking=tuple(line.ranking or ()),
        answer=line.answer,
        safety=line.safety,
        raters=line.raters,
        principles=line.principles or {},
        prefill=line.prefill or "",
        reference=line.reference,
        weight=1.0 if line.weight is None else line.weight,
        digest=digest,
    )


def _kind(line: _Line) -> Kind:
    given = frozenset(key for key in MAIN if getattr(line, key) is not None)
    if given in SHAPES:
        return SHAPES[given]
    if {"text", "prompt"} <= given:
        raise _Wrong('holds both "text" and "prompt"; keep "text" for text by itself, or "prompt" for a question.')
    if not given:
        raise _Wrong('holds no text; write "text", or "prompt" with what belongs to it.')
    shape = min(SHAPES, key=lambda s: (len(given - s), len(s - given), sorted(s)))
    lacks, extra = shape - given, given - shape
    wanted = [f"lacks {_quoted(lacks)}"] if lacks else []
    wanted += [f"does not go with {_quoted(extra)}"] if extra else []
    raise _Wrong(f"a probe of {_quoted(given & shape or given)} {' and '.join(wanted)}.")


def _quoted(keys: Iterable[str]) -> str:
    return " and ".join(f'"{key}"' for key in sorted(keys, key=MAIN.index))


def _refuse_misplaced(line: _Line, kind: Kind) -> None:
    for key, kinds in ONLY_WITH.items():
        if getattr(line, key) is not None and kind not in kinds:
            where = "chosen and rejected" if kinds == ("preference",) else "a prompt"
            raise _Wrong(f'"{key}" is for probes with {where}.')


def _parts(line: _Line, kind: Kind) -> tuple[Text, tuple[Text, ...]]:
    if kind == "text":
        return "", (_text(line.text if line.messages is None else line.messages),)
    if kind == "preference":
        chosen, rejected = _text(line.chosen), _text(line.rejected)
        if line.prompt is None:
            return _without_prompt(chosen, rejected)
        return _text(line.prompt), (chosen, rejected)
    one = [] if line.completion is None else [line.completion]
    return _text(line.prompt), tuple(map(_text, one or line.completions or line.choices or ()))


def _text(given: str | list[_Message] | None) -> Text:
    if isinstance(given, list):
        return tuple(Message(message.role, message.content) for message in given)
    return given or ""


def _without_prompt(chosen: Text, rejected: Text) -> tuple[Text, tuple[Text, ...]]:
    """Prompt and completions where both completions begin with the prompt, as TRL takes them apart.

    Conversations share their first messages; texts their first characters, but a space before the first difference
    belongs to the completions.
    """
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise _Wrong('one of "chosen" and "rejected" is text and the other a conversation.')
    pairs = enumerate(zip(chosen, rejected, strict=False))
    shared = next((place for place, (left, right) in pairs if left != right), min(len(chosen), len(rejected)))
    if isinstance(chosen, str) and shared and chosen[shared - 1] == " ":
        shared -= 1
    prompt = chosen[:shared]
    if not prompt:
        raise _Wrong('"chosen" and "rejected" do not begin alike; give what they answer as "prompt".')
    return prompt, (chosen[shared:], rejected[shared:])


def _check_texts(prompt: Text, completions: tuple[Text, ...], kind: Kind) -> None:
    if kind == "prompt" and not prompt:
        raise _Wrong('"prompt" is empty.')
    if isinstance(prompt, tuple) and prompt[-1].role == "assistant":
        raise _Wrong('"prompt" ends with the assistant\'s message; what opens its answer goes into "prefill".')
    for number, completion in enumerate(completions, start=1):
        what = _what(kind, number)
        if not (completion if isinstance(completion, str) else any(m.content for m in completion)):
            raise _Wrong(f"{what} is empty.")
        if kind != "text" and isinstance(completion, tuple):
            _check_turn(completion, prompt, what)
        if (first := completions.index(completion) + 1) < number:
            raise _Wrong(f"{_what(kind, first)} and {what} are the same.")


def _what(kind: Kind, number: int) -> str:
    names = {"text": ("text",), "preference": ("chosen", "rejected")}.get(kind, ("completion",))
    if kind in ("ranking", "choice"):
        return f'{number} of "{"completions" if kind == "ranking" else "choices"}"'
    return f'"{names[number - 1]}"'


def _check_turn(completion: tuple[Message, ...], prompt: Text, what: str) -> None:
    if isinstance(prompt, str):
        raise _Wrong(f'{what} is a conversation and "prompt" is text; write both as messages, or both as text.')
    if len(completion) != 1 or completion[0].role != "assistant":
        roles = ", ".join(message.role for message in completion[:8])
        raise _Wrong(f"{what} has messages of {roles}; a completion is one message of the assistant.")


def _check_judgement(line: _Line, completions: tuple[Text, ...]) -> None:
    count = len(completions)
    if line.answer is not None and not 0 <= line.answer < count:
        raise _Wrong(f'"answer" is {line.answer}; it is the index of one of the choices, from 0 to {count - 1}.')
    if line.ranking is None:
        return
    if len(line.ranking) != count:
        raise _Wrong(f'"ranking" has {len(line.ranking)} numbers for {count} completions.')
    if min(line.ranking) != 1 or max(line.ranking) > count:
        raise _Wrong(f'"ranking" holds each completion\'s place, from 1 (the best) to at most {count}.')
    if max(line.ranking) == 1:
        raise _Wrong('"ranking" puts all completions in one place; there is nothing to compare.')
