"""A finding: one fault of a checkpoint, as a record that nothing has to take apart again."""

from __future__ import annotations

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """What is wrong with one thing.

    `tensor` is what it is about: a tensor's name, or a place in a file such as `config.json:rope_theta`.
    `fault` is which kind of fault it is, `detail` both values and the mend.
    """

    tensor: str
    fault: str
    detail: str = ""
