"""Rows of a data set as probes: TRL's formats as they are, multiple choice as lm-eval's tasks have it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ckptaudit.behavior.probe import Probe
from ckptaudit.behavior.probe_lines import KEYS, read_line
from ckptaudit.errors import ProbeError, printable

QUESTION, ANSWER_KEY = "question", "answerKey"
"""Columns of multiple choice that are no keys of a probe."""

COLUMNS = (*KEYS, QUESTION, ANSWER_KEY)
CONVERSATIONS = ("messages", "prompt", "completion", "chosen", "rejected")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Row = Mapping[str, Any]


@dataclass
class Conversion:
    """The lines made, and what was left out: columns that no probe has, and rows by the reason."""

    lines: list[bytes] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)
    reasons: dict[str, list[int]] = field(default_factory=dict)


def converted(rows: Iterable[tuple[int, Row]], columns: Mapping[str, str], set_: str | None = None) -> Conversion:
    """A probe for every row that makes one.

    `columns` says by key of a probe which column holds it; other columns with the name of a key are taken as they
    are. A row that makes no probe is left out with its reason, as is one that was there before.
    """
    made, seen = Conversion(), set[str]()
    for number, row in rows:
        keys = dict(probe_keys(row, columns))
        if set_ is not None:
            keys["set"] = set_
        made.columns |= row.keys() - keys.keys() - set(columns.values()) - {QUESTION, ANSWER_KEY}
        try:
            line = msgspec.json.encode(keys)
            probe = read_line(line, number, "")
        except ProbeError as error:
            made.reasons.setdefault(error.sentence.removeprefix(": "), []).append(number)
            continue
        except (TypeError, ValueError, RecursionError) as error:
            made.reasons.setdefault(f"cannot be written as JSON ({printable(error)[:80]}).", []).append(number)
            continue
        if probe.id in seen:
            made.reasons.setdefault("was there before.", []).append(number)
            continue
        seen.add(probe.id)
        made.lines.append(line)
        made.probes.append(probe)
    return made


def probe_keys(row: Row, columns: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """The keys of a probe that a row holds, in the order of the format."""
    mapped = {*columns, *columns.values()}
    given = {key: row[key] for key in KEYS if row.get(key) is not None and key not in mapped}
    given |= {key: row[column] for key, column in columns.items() if row.get(column) is not None}
    if "choices" in given:
        given = _choice(given, row)
    if isinstance(given.get("prompt"), str) and isinstance(given.get("chosen"), list):
        # Both completions then begin with the prompt as a message.
        given.pop("prompt")
    for key in CONVERSATIONS:
        if isinstance(given.get(key), list):
            given[key] = [_message(turn) for turn in given[key]]
    if isinstance(given.get("label"), int):
        given["label"] = bool(given["label"])
    for key in KEYS:
        if key in given:
            yield key, given[key]


def _choice(given: dict[str, Any], row: Row) -> dict[str, Any]:
    """A question with choices and its answer: an index, a letter or label, or the text of a choice."""
    texts, labels = given["choices"], list(LETTERS)
    if isinstance(texts, Mapping):
        labels, texts = list(texts.get("label") or labels), list(texts.get("text") or [])
    texts = list(texts)
    answer = given.get("answer", row.get(ANSWER_KEY))
    if isinstance(answer, str):
        answer = _place(answer, texts, labels)
    prompt = given.get("prompt", row.get(QUESTION))
    if "prompt" not in given and isinstance(prompt, str):
        prompt = f"Question: {prompt}\nAnswer:"
        texts = [f" {text}" for text in texts]
    return {**given, "prompt": prompt, "choices": texts, "answer": answer}


def _place(answer: str, texts: list[Any], labels: list[Any]) -> int | str:
    for known in (texts, labels[: len(texts)]):
        if answer in known:
            return known.index(answer)
    return int(answer) if answer.isascii() and answer.isdigit() and len(answer) < 6 else answer


def _message(turn: Any) -> Any:
    """Role and content of a message, its other keys left out; text that comes in parts is joined."""
    if not isinstance(turn, Mapping):
        return turn
    content = turn.get("content")
    if isinstance(content, list) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in content):
        content = "".join(str(part.get("text") or "") for part in content)
    return {"role": turn.get("role"), "content": content}
