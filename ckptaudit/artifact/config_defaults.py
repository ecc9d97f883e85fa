"""What a configuration means by saying nothing: defaults of configuration classes, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from ckptaudit.artifact.facts import text_view

TABLE = Path(__file__).parent / "class_defaults.json"


def class_defaults(config: Mapping[str, object]) -> Mapping[str, object] | None:
    """Defaults of a configuration's class by the keys that are compared; None for a model type not listed.

    Listed types take a neutral value (null, false, 0, empty) for every key of the table's kinds that they lack.
    """
    kinds = (config.get("model_type"), text_view(config).get("model_type"))
    return next((_table()[kind] for kind in kinds if isinstance(kind, str) and kind in _table()), None)


@cache
def _table() -> Mapping[str, Mapping[str, object]]:
    return msgspec.json.decode(TABLE.read_bytes(), type=dict[str, dict[str, object]])
