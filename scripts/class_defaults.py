"""Writes ckptaudit/artifact/class_defaults.json: what a configuration that lacks a key means, by model type.

usage: python scripts/class_defaults.py > ckptaudit/artifact/class_defaults.json

Read off the configuration classes of the installed transformers, in the flat form that
`ckptaudit.artifact.config_values` compares: keys of the kinds that STRICT names, and all that are true. Neutral
values (null, false, 0, empty) are left out: absence means them anyway.
"""

from __future__ import annotations

import json
import re

import transformers

from ckptaudit.artifact.config_keys import STRICT, USUAL, is_neutral
from ckptaudit.artifact.config_values import leaves
from ckptaudit.artifact.facts import text_view
from ckptaudit.artifact.special_tokens import IDS
from ckptaudit.artifact.ties import FLAG

KEYS = re.compile(rf"rope\..*|{STRICT.pattern}")


def main() -> None:
    """Print the table, one model type a line."""
    rows = ((kind, _defaults(kind)) for kind in sorted(transformers.CONFIG_MAPPING.keys()))
    lines = (f"{json.dumps(kind)}: {json.dumps(stated)}" for kind, stated in rows if stated is not None)
    print("{\n" + ",\n".join(lines) + "\n}")


def _defaults(kind: str) -> dict[str, object] | None:
    try:
        config = transformers.CONFIG_MAPPING[kind]()
    except Exception:  # classes that need arguments, or packages that are not installed
        return None
    return _stated(json.loads(config.to_json_string(use_diff=False)))


def _stated(config: dict[str, object]) -> dict[str, object] | None:
    view = text_view(config)
    stated = leaves(config)
    found = {key: value for key, value in stated.items() if KEYS.fullmatch(key) or value is True}
    found |= {key: view[key] for key in (*IDS, FLAG) if key in view}
    if not isinstance(found.get(FLAG), bool):
        return None
    kept = {k: v for k, v in sorted(found.items()) if k == FLAG or v is True or not _is_assumed(k, v)}
    return {k: v for k, v in kept.items() if isinstance(v, bool | int | float | str) or k in IDS}


def _is_assumed(key: str, value: object) -> bool:
    return is_neutral(value) or value in USUAL.get(key, ())


if __name__ == "__main__":
    main()
