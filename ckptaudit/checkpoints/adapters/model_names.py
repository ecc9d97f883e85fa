"""The base's names for what an adapter names as transformers has it in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ckptaudit.checkpoints.adapters.name_ends import EndIndex

TEXT_CONFIGS = ("text_config", "vision_config", "audio_config", "llm_config", "language_config")
"""What config.json holds where a model has a language model beside other towers."""

WRAPPERS = ("model", "language_model", "text_model")
"""Words before the layers of the language model; which, and in what order, differs between file and memory."""


class ModelNames:
    """Names of a base that can be looked up by the names that its modules have in memory.

    Most differ by leading parts alone. Of a multimodal model, transformers loads `model.layers` or
    `language_model.model.layers` of the file as `model.language_model.layers`.
    """

    def __init__(self, names: Iterable[str], config: Mapping[str, object]) -> None:
        self._ends = EndIndex(names)
        self._bare: dict[str, str | None] = {}
        if any(isinstance(config.get(key), dict) for key in TEXT_CONFIGS):
            for name in names:
                bare = _bare(name)
                self._bare[bare] = None if bare in self._bare else name

    def find(self, name: str) -> str | None:
        """The one name of the base that means this tensor."""
        return self._ends.find(name) or self._bare.get(_bare(name))


def _bare(name: str) -> str:
    words = name.split(".")
    start = next((i for i, word in enumerate(words) if word not in WRAPPERS), 0)
    return ".".join(words[start:])
