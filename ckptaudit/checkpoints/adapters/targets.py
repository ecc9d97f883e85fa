"""Which modules peft gives an adapter to: those of `target_modules`, but for those that other settings leave out.

What the file holds for any other module peft passes over in silence. Regular expressions come from the file and are
held to the language of `patterns`; one outside of it decides nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from ckptaudit.checkpoints.adapters.patterns import Patterns, UnreadPatternError, compiled

Names = str | list[str] | None

PREFIX = "base_model.model."
"""What each name in an adapter's file begins with; peft finds nothing in the model for any other."""

_NUMBERED = re.compile(r".*?\.[^.]*\.(?P<layer>\d+)\.")
_PLAIN = re.compile(r"[\w\-]+")


class TargetSettings(msgspec.Struct):
    """The settings of adapter_config.json that say where the adapter goes."""

    target_modules: Names = None
    exclude_modules: Names = None
    modules_to_save: list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: Names = None


@dataclass(frozen=True)
class Targets:
    """The settings, ready to be asked about one module after another."""

    wanted: Selection
    excluded: Selection
    saved: frozenset[str]
    layers: Layers

    @classmethod
    def of(cls, settings: TargetSettings) -> Targets:
        """Those of a configuration; without `target_modules` peft chooses by the model, and all is let through."""
        wanted = settings.target_modules
        everything = isinstance(wanted, str) and wanted.lower() == "all-linear"
        return cls(
            Selection.of(None if everything else wanted, otherwise=True),
            Selection.of(settings.exclude_modules, otherwise=False),
            frozenset(settings.modules_to_save or ()),
            Layers.of(settings),
        )

    def left_out_by(self, module: str) -> str | None:
        """The setting because of which peft gives this module no adapter; None where it gives it one."""
        if self.excluded.has(module):
            return "exclude_modules"
        if self.saved and any(end in self.saved for part in beginnings(f"{module}.") for end in _ends(part)):
            return "modules_to_save"
        if not self.wanted.has(module):
            return "target_modules"
        return None if module in self.wanted.names or self.layers.has(module) else "layers_to_transform"


@dataclass(frozen=True)
class Selection:
    """Modules by the ends of their names, or by one expression for the whole name."""

    names: frozenset[str] = frozenset()
    pattern: Patterns | None = None
    otherwise: bool | None = None
    """What is said of every module where nothing is set, or an expression that is not read."""

    @classmethod
    def of(cls, setting: Names, *, otherwise: bool) -> Selection:
        """The modules that a setting names."""
        if not setting:
            return cls(otherwise=otherwise)
        if isinstance(setting, list):
            return cls(frozenset(setting))
        try:
            # Here peft matches whole names, and the patterns of ranks from any dot on.
            return cls(pattern=compiled({"|".join(f"^{way.removeprefix('^')}" for way in setting.split("|")): 1}))
        except UnreadPatternError:
            return cls(otherwise=otherwise)

    def has(self, module: str) -> bool:
        """Whether it is among them."""
        if self.otherwise is not None:
            return self.otherwise
        if self.pattern is not None:
            return bool(self.pattern.first(module, 0))
        return any(end in self.names for end in _ends(module))


@dataclass(frozen=True)
class Layers:
    """The numbers of `layers_to_transform`, and the words of `layers_pattern` behind which they stand."""

    numbers: frozenset[int] | None = None
    words: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: TargetSettings) -> Layers:
        """All layers where none are named, or the words before their numbers are an expression."""
        numbers, words = settings.layers_to_transform, settings.layers_pattern or []
        names = (words,) if isinstance(words, str) else tuple(words)
        if numbers is None or numbers == [] or not all(_PLAIN.fullmatch(name) for name in names):
            return cls()
        return cls(frozenset([numbers] if isinstance(numbers, int) else numbers), names)

    def has(self, module: str) -> bool:
        """Whether the module is in one of them; one outside of numbered layers is in none."""
        if self.numbers is None:
            return True
        if self.words:
            number = next(filter(None, (_number_behind(word, module) for word in self.words)), None)
        else:
            match = _NUMBERED.match(module)
            number = match["layer"] if match else None
        return number is not None and int(number) in self.numbers


def _number_behind(word: str, module: str) -> str | None:
    words = module.split(".")
    behind = (b for a, b in pairwise(words[:-1]) if a == word)
    return next((number for number in behind if number.isdecimal()), None)


def _ends(name: str) -> list[str]:
    """The name, and what follows each of its dots."""
    return [name, *(name[i + 1 :] for i, c in enumerate(name) if c == ".")]


def beginnings(name: str) -> list[str]:
    """What stands before each dot of a name: the modules that a tensor is in."""
    return [name[:i] for i, c in enumerate(name) if c == "."]
