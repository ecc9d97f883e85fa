"""A fault as a record: what it is about, which kind it is, and the details. Never a sentence to be taken apart."""

from __future__ import annotations

import msgspec

from ckptaudit.errors import printable


class Finding(msgspec.Struct, frozen=True):
    """One fault of a checkpoint or a pair.

    `tensor` is what it is about: a tensor's name, or a file and key such as `config.json:rope_theta`. `detail`
    holds the values of both sides and, where there is one, the mend.
    """

    tensor: str
    fault: str
    detail: str = ""

    def __str__(self) -> str:
        detail = f", {self.detail}" if self.detail else ""
        return printable(f"{self.tensor}: {self.fault}{detail}")


class Cause(msgspec.Struct, frozen=True):
    """What a broken tensor looks like, as "layers 1 and 2 exchanged", and what to do about that."""

    said: str
    remedy: str

    def __str__(self) -> str:
        return printable(f"looks like {self.said}")
