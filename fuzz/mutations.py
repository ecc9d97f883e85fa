"""Damage that knows the format: numbers, texts and structure are changed where the format has them."""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
from random import Random
from typing import Any

NUMBERS: list[Any] = [
    0, 1, -1, 2, 3, 4, 8, 16, 127, 128, 255, 256, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64,
    -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e308, True, False, None,
]  # fmt: skip
TEXTS = [
    "", "a", "\x1b[2J", "\n::error::x", "\u202e", "../x", "/etc/passwd", "a" * 300, "a\0b", "F32", "F64", "BOOL",
    "I64", "F8_E4M3", "C64", "LORA", "pissa", "fp8", "a.weight", ".*.*.*", "<script>", "2030-01-01", "[[", "##[x]",
]  # fmt: skip


def mutated(data: bytes, kind: str, random: Random) -> bytes:
    """The file with one to four changes of its kind; every fourth time of its bytes, whatever the kind."""
    change = _CHANGES[kind] if random.random() < 0.75 else bytes_changed
    for _ in range(random.randint(1, 4)):
        data = change(data, random)
    return data


def bytes_changed(data: bytes, random: Random) -> bytes:
    """A run of bytes replaced, cut out, repeated or swapped for a number's; or the end cut off."""
    if random.random() < 0.05:
        return data[: random.randint(0, len(data))]
    start = random.randint(0, len(data))
    end = min(len(data), start + random.choice([0, 1, 1, 2, 4, 8, 16]))
    new = random.choice([b"", random.randbytes(end - start), data[start:end] * 2, _packed(random)])
    return data[:start] + new + data[end:]


def json_changed(data: bytes, random: Random) -> bytes:
    """One value of the document replaced, removed, repeated, nested, or put under another name."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return bytes_changed(data, random)
    place = random.choice(_places(document))
    return json.dumps(_with(document, place, random)).encode("utf-8", "surrogatepass")


def lines_changed(data: bytes, random: Random) -> bytes:
    """One line changed as JSON, or the lines as text."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    if random.random() < 0.2:
        return text_changed(data, random)
    return b"\n".join([*lines[:at], json_changed(lines[at], random), *lines[at + 1 :]])


def safetensors_changed(data: bytes, random: Random) -> bytes:
    """The header changed as JSON, with its right length or another."""
    length = int.from_bytes(data[:8], "little")
    header = json_changed(data[8 : 8 + length], random)
    claimed = len(header) if random.random() < 0.9 else random.choice([0, 7, 2**31, 2**63, 2**64 - 1])
    return struct.pack("<Q", claimed) + header + data[8 + length :]


def pickle_changed(data: bytes, random: Random) -> bytes:
    """An opcode's argument replaced by another number or text, or a stretch of steps moved or repeated."""
    places = [i for i in range(len(data)) if data[i : i + 1] in b"KMJXqhr\x8a\x8c"]
    if not places or random.random() < 0.3:
        return _steps_moved(data, random)
    at = random.choice(places)
    lengths = {b"K": 2, b"M": 3, b"J": 5, b"q": 2, b"h": 2, b"r": 5}
    return data[:at] + _step(random) + data[at + lengths.get(data[at : at + 1], 2) :]


def archive_changed(data: bytes, random: Random) -> bytes:
    """The pickle within a zip archive changed, and the archive written anew around it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old:
            records = {entry.filename: old.read(entry) for entry in old.infolist()}
    except Exception:  # it was damaged before
        return bytes_changed(data, random)
    name = next((n for n in records if n.endswith("data.pkl")), random.choice(list(records)))
    records[name] = pickle_changed(records[name], random)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        for other, content in records.items():
            # With no time of its own it would get the clock's, and a seed not give the same bytes twice.
            new.writestr(zipfile.ZipInfo(other), content)
    return buffer.getvalue()


def text_changed(data: bytes, random: Random) -> bytes:
    """A line or a word repeated, removed, moved or replaced."""
    between = random.choice([b"\n", b" "])
    parts = data.split(between)
    at = random.randrange(len(parts))
    other = random.choice(TEXTS).encode("utf-8", "surrogatepass")
    new = random.choice(
        [[], [parts[at]] * 2, [random.choice(parts)], [other], [repr(random.choice(NUMBERS)).encode()]]
    )
    return (b"\n" if parts and b" " in data and b"\n" not in parts[0] else b" ").join(
        [*parts[:at], *new, *parts[at + 1 :]]
    )


_CHANGES = {
    "json": json_changed,
    "safetensors": safetensors_changed,
    "pickle": pickle_changed,
    "archive": archive_changed,
    "text": text_changed,
    "lines": lines_changed,
    "bytes": bytes_changed,
}


def _packed(random: Random) -> bytes:
    value = random.choice([n for n in NUMBERS if type(n) is int and 0 <= n < 2**64])
    return struct.pack(random.choice(["<Q", ">Q"]), value)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, part in inner for place in _places(part, (*at, key)))]


def _with(document: Any, place: tuple[Any, ...], random: Random) -> Any:
    if not place:
        return random.choice([[], {}, None, 1, "x", [document], document])
    changed = copy.deepcopy(document)
    holder = changed
    for key in place[:-1]:
        holder = holder[key]
    key = place[-1]
    match random.randrange(6):
        case 0 if isinstance(holder, dict):
            holder[random.choice(TEXTS)] = holder.pop(key)
        case 1:
            holder.pop(key)
        case 2 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        case 3:
            holder[key] = [holder[key]] if random.random() < 0.5 else {"a": holder[key]}
        case _:
            holder[key] = _like(holder[key], random)
    return changed


def _like(value: Any, random: Random) -> Any:
    if isinstance(value, list) and value and random.random() < 0.5:
        return value * random.choice([0, 2, 30])
    same = TEXTS if isinstance(value, str) else NUMBERS
    return random.choice(same if random.random() < 0.7 else [*TEXTS, *NUMBERS])


def _steps_moved(data: bytes, random: Random) -> bytes:
    a, b, c = sorted(random.randint(0, len(data)) for _ in range(3))
    return random.choice([data[:a] + data[b:c] + data[a:b] + data[c:], data[:b] + data[a:], data[:a] + data[b:]])


def _step(random: Random) -> bytes:
    value = random.choice(NUMBERS)
    if type(value) is int and random.random() < 0.8:
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw
    if type(value) is float:
        return b"G" + struct.pack(">d", value)
    text = random.choice(TEXTS).encode("utf-8", "surrogatepass")
    return random.choice([b"N", b"\x88", b")", b"}", b"]", b"X" + struct.pack("<I", len(text)) + text])
