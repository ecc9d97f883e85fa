"""Shapes in signatures are checked while tests run; users never pay for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from inspect import isfunction
from types import FunctionType
from typing import Any

import jaxtyping
from jaxtyping import install_import_hook, jaxtyped

ARRAY = re.compile(rf"\b({'|'.join(name for name in dir(jaxtyping) if name[0].isupper())})\[")


def names_shapes(function: FunctionType) -> bool:
    """Whether an annotation is an array of a shape, or a module's own name for one."""
    words = " ".join(map(str, function.__annotations__.values()))
    own = (repr(function.__globals__.get(name)) for name in set(re.findall(r"\w+", words)))
    return any(map(ARRAY.search, [words, *own]))


def checked(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What the hook decorates with: where no shape is named there is none to remember, only types to check."""

    def decorated(one: Any) -> Any:
        if isfunction(one) and not names_shapes(one):
            return typechecker(one)
        return jaxtyped(one, typechecker=typechecker)

    return decorated


# A gate that is started in this folder loads this file too, where the package alone may be installed.
if find_spec("beartype") is not None:
    jaxtyping.jaxtyped = checked  # type: ignore[assignment]
    # Before anything imports these modules: the hook rewrites them as they are loaded.
    install_import_hook(["ckptaudit.linalg", "ckptaudit.metrics"], "beartype.beartype")
