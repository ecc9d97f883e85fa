"""How the names of one model read: the common rules, with those of its families before them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from math import prod

from ckptaudit.naming.aliases import MAX_LENGTH, aliases_of, canonical
from ckptaudit.naming.groups import is_known
from ckptaudit.naming.layouts import Layout, parts_of, put_in_order
from ckptaudit.naming.places import Place, ends_in, pattern_of, place, stem_of
from ckptaudit.naming.rules import ANY_MODEL, Family, Kernel, Split, Tie, families, rules

Config = Mapping[str, object]

MAX_NUMBER = 2**31


class Naming:
    """Places and layouts for a model with this config.json; an empty one leaves the common rules alone.

    `names` are the checkpoint's tensors, of both sides of a pair: some libraries are known by their names alone.
    """

    def __init__(self, config: Config, names: Iterable[str] = ()) -> None:
        self._config = config
        self._by_name = _families(config, tuple(names))
        self._families = tuple(self._by_name.values())
        self._aliases = tuple(a for family in self._families for a in aliases_of(family.aliases))
        self._roles = tuple(pair for family in self._families for pair in family.roles.items())
        self._splits: dict[str, Split | None] = {}
        # Pairing asks several times for each of a hundred thousand names.
        self._places: dict[str, Place] = {}
        self._patterns: dict[str, str] = {}
        self._layouts: dict[tuple[str, tuple[int, ...]], Layout] = {}

    def place(self, name: str) -> Place:
        """Layer, role and stack of a tensor."""
        if name not in self._places:
            self._places[name] = place(self.canonical(name), self._roles)
        return self._places[name]

    def canonical(self, name: str) -> str:
        """The name in the spelling that the rules are written for: one weight, one name, whatever stored it."""
        return canonical(name, self._aliases)

    def layer_stack(self, name: str) -> tuple[str, str] | None:
        """What stands before and behind the layer's number, where the first axis counts layers in its place."""
        for words in (w for family in self._families for w in family.layer_stacks):
            before, found, behind = name.partition(f"{words}.")
            if found and behind and not behind.partition(".")[0].isdecimal():
                return before + found, behind
        return None

    @property
    def family(self) -> str:
        """What was recognised, for people: the families whose rules apply, or that only the common ones do."""
        named = [name for name, family in self._by_name.items() if ANY_MODEL not in family.model_types]
        said = self._config.get("model_type")
        model = said if isinstance(said, str) else "no model_type"
        return f"{model} (rules: {', '.join(named) or 'common'})"

    def unknown(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
        """Roles of these tensors, given by name with their shapes, that no rule names; in order."""
        places = ((self.place(name).role, len(shape) > 1) for name, shape in shapes.items())
        return tuple(sorted({role for role, is_matrix in places if not is_known(role, is_matrix=is_matrix)}))

    def layout(self, name: str, shape: tuple[int, ...]) -> Layout:
        """How a tensor of this name and shape becomes matrices."""
        # Layouts are alike wherever names differ in numbers alone, as those of experts do.
        pattern = self._pattern(name)
        if (pattern, shape) not in self._layouts:
            self._layouts[pattern, shape] = self._layout(name, shape)
        return self._layouts[pattern, shape]

    def _pattern(self, name: str) -> str:
        if name not in self._patterns:
            self._patterns[name] = name if len(name) > MAX_LENGTH else pattern_of(self.canonical(name))
        return self._patterns[name]

    def _layout(self, name: str, shape: tuple[int, ...]) -> Layout:
        if len(name) > MAX_LENGTH:
            return Layout()
        where = self.place(name)
        name = self.canonical(name)
        stacked = self._is_stacked(name, shape, where)
        axes = len(shape) - stacked
        depthwise = axes == 3 and shape[-2] == 1
        if not (axes in (1, 2) or depthwise) or not prod(shape):
            # An empty tensor may claim any number of experts; a file of no bytes must not cost a view each.
            return Layout()
        turned = axes == 2 and self._is_turned(stem_of(name), shape)
        laid_out = (*shape[:-2], shape[-1], shape[-2]) if turned else shape
        return self._divided(name, where.role, laid_out[stacked:], Layout(stacked, turned))

    @property
    def ties(self) -> tuple[Tie, ...]:
        """What a file of this model may leave out because the model shares it; empty if it shares nothing."""
        said = [v for c in _text_first(self._config) if isinstance(v := c.get("tie_word_embeddings"), bool)]
        shares = any(said) if said else any(family.ties_embeddings for family in self._families)
        return (*rules().tied, *(tie for f in self._families for tie in f.tied)) if shares else ()

    def _is_stacked(self, name: str, shape: tuple[int, ...], where: Place) -> bool:
        axes = 2 if where.role.endswith(".bias") else 3
        holds_experts = any(word in rules().stacked_expert_words for word in name.split("."))
        return holds_experts and where.expert is None and len(shape) == axes

    def _is_turned(self, stem: str, shape: tuple[int, ...]) -> bool:
        kernels = (k for family in self._families for k in family.kernel)
        return any(_names(kernel, stem) and self._fits(kernel, shape) for kernel in kernels)

    def _fits(self, kernel: Kernel, shape: tuple[int, ...]) -> bool:
        sizes = ((kernel.inputs, shape[-2]), (kernel.outputs, shape[-1]))
        return all(self._numbers.get(number, size) == size for number, size in sizes if number)

    def _divided(self, name: str, role: str, shape: tuple[int, ...], whole: Layout) -> Layout:
        split = self._split(stem_of(name))
        if split is None or not self._takes(split, shape):
            reason = "no family in ckptaudit/naming/families describes how this model fuses it"
            fused = role.removesuffix(".bias") in rules().fused
            return Layout(whole.stacked, whole.turned, doubt=reason if fused else "")
        try:
            parts = parts_of(shape[0], split.groups, split.parts, self._numbers)
            parts = put_in_order(parts, split.interleaved, self._numbers)
        except ValueError as error:
            return Layout(whole.stacked, whole.turned, doubt=str(error))
        return Layout(whole.stacked, whole.turned, parts)

    def _takes(self, split: Split, shape: tuple[int, ...]) -> bool:
        """Whether the inputs are of the size that the rule asks for, if it does; a bias has none."""
        return not split.inputs or len(shape) < 2 or self._numbers.get(split.inputs) == shape[1]

    def _split(self, stem: str) -> Split | None:
        if stem not in self._splits:
            splits = (s for s in self._all_splits() if _names(s, stem) and self._applies(s))
            self._splits[stem] = next(splits, None)
        return self._splits[stem]

    def _all_splits(self) -> Iterator[Split]:
        yield from (split for family in self._families for split in family.split)
        yield from rules().split

    def _applies(self, split: Split) -> bool:
        return all(self._flag(flag) is wanted for flag, wanted in split.when.items())

    def _flag(self, flag: str) -> object:
        default = next((f.flags[flag] for f in self._families if flag in f.flags), None)
        return next((c[flag] for c in _text_first(self._config) if flag in c), default)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """What config.json says about sizes; grouped heads default to plain ones, as in transformers."""
        found = {name: self._number(keys) for name, keys in rules().numbers.items()}
        numbers = {name: value for name, value in found.items() if value}
        if "heads" in numbers:
            numbers.setdefault("kv_heads", numbers["heads"])
            heads_per_kv, left = divmod(numbers["heads"], numbers["kv_heads"])
            numbers |= {} if left else {"heads_per_kv_head": heads_per_kv}
        for product, factors in rules().products.items():
            if all(factor in numbers for factor in factors):
                numbers[product] = prod(numbers[factor] for factor in factors)
        return numbers

    def _number(self, keys: tuple[str, ...]) -> int | None:
        values = (_inside(config, key) for config in _text_first(self._config) for key in keys)
        sound = (v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 < v < MAX_NUMBER)
        return next(sound, None)


def _names(rule: Split | Kernel, stem: str) -> bool:
    return any(ends_in(stem, pattern) for pattern in rule.tensors)


def _families(config: Config, names: tuple[str, ...]) -> dict[str, Family]:
    kinds = [c.get("model_type") for c in (config, *_parts_of_config(config))]
    said = {kind for kind in kinds if isinstance(kind, str)}
    wildcard = {ANY_MODEL} if said else set()
    return {
        key: family
        for key, family in families().items()
        if {*family.model_types} & (said | wildcard) or _is_named(family, names)
    }


def _is_named(family: Family, names: tuple[str, ...]) -> bool:
    def occurs(words: str) -> bool:
        return any(f".{words}." in f".{name}." for name in names)

    return bool(family.names) and all(occurs(words) for words in family.names)


def _text_first(config: Config) -> Iterator[Config]:
    """Where to look a number up: a multimodal model says what its language model is like in a part."""
    for name in rules().text_configs:
        part = _inside(config, name)
        if isinstance(part, dict):
            yield part
    yield config


def _inside(config: Config, path: str) -> object:
    """What config.json says under a dotted path, None where it says nothing."""
    part: object = config
    for word in path.split("."):
        part = part.get(word) if isinstance(part, Mapping) else None
    return part


def _parts_of_config(config: Config) -> Iterator[Config]:
    """The configurations of a multimodal model's parts, two deep: `thinker_config.text_config`."""
    inner = [v for k, v in config.items() if k.endswith("_config") and isinstance(v, dict)]
    deeper = [v for part in inner for k, v in part.items() if str(k).endswith("_config") and isinstance(v, dict)]
    yield from (*inner, *deeper)
