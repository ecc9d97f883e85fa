"""A causal language model built from an opened checkpoint: hidden states, and logits of chosen positions.

transformers builds it from the configuration alone, without remote code; its weights are the tensors that the other
checks read, whatever format or adapter they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from blake3 import blake3
from jaxtyping import Float, Int
from torch import Tensor

from ckptaudit.behavior.end_tokens import end_tokens
from ckptaudit.behavior.folders import stored_config
from ckptaudit.checkpoints import Checkpoint
from ckptaudit.errors import MeasurementError, printable
from ckptaudit.pairing import ModelPair

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""How configurations name their depth."""

EXCESS = 2.0
"""How many times a checkpoint's parameters a model may have, so that a configuration cannot ask for more memory."""

PROBED = 8
"""Tokens of the pass that looks whether the output head can be applied by itself."""

SAME_LOGITS = 1e-5
"""How far the head's own logits may be from the model's, relative to the largest, to stand for them."""


@dataclass(frozen=True)
class CausalModel:
    """A model in evaluation mode. `head_apart` says that its logits are the head of its last hidden states.

    Where they are not (a cap or a scale comes after the head), `hidden` gives the logits themselves.
    `digest` is of the names, types and bytes of all weights, and of the precision that it runs in.
    """

    path: str
    network: Any
    context: int
    vocabulary: int
    end_tokens: tuple[int, ...]
    head_apart: bool
    digest: str = ""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        device: torch.device = self.network.device
        return device

    def hidden(
        self,
        ids: Int[Tensor, "b t"],
        mask: Int[Tensor, "b t"] | Float[Tensor, "b 1 t t"] | None,
        positions: Int[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """What `logits` turns into logits, at every position; padding on the left wants a mask and `positions`.

        A mask of four dimensions is added to the scores of attention: for each token what it may look at.
        Padding on the right comes after all that is looked at, and needs none: attention is faster without.
        """
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        if positions is not None:
            given["position_ids"] = positions
        with torch.no_grad():
            if self.head_apart:
                last: Tensor = self.network.base_model(**given).last_hidden_state
                return last
            logits: Tensor = self.network(**given).logits
            return logits

    def logits(self, hidden: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Logits, in float32 at least, of positions that `hidden` gave."""
        with torch.no_grad():
            found = self.network.get_output_embeddings()(hidden) if self.head_apart else hidden
            return found.to(torch.promote_types(found.dtype, torch.float32))[:, : self.vocabulary]

    def states(self, ids: Int[Tensor, "b t"], mask: Int[Tensor, "b t"]) -> tuple[Float[Tensor, "b t d"], ...]:
        """The embeddings, and the hidden states after each layer."""
        given = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        with torch.no_grad():
            found: tuple[Tensor, ...] = self.network.base_model(**given, output_hidden_states=True).hidden_states
            return found


def open_model(
    checkpoint: Checkpoint,
    base: Checkpoint,
    device: torch.device,
    dtype: str = "float32",
    pair: ModelPair | None = None,
) -> CausalModel:
    """Build the model of a checkpoint; where it has no configuration of its own, by the base's.

    `pair` gives the tensors under the base's names where the checkpoint names them otherwise. Raises
    MeasurementError if transformers is missing, knows no such model, or a weight is missing or of another shape.
    """
    config = model_config(checkpoint, base)
    kind = _outline(checkpoint, config)
    state = _state(checkpoint, base, pair)
    digest = _digest(state, dtype)
    _quiet()
    try:
        network, found = kind.from_pretrained(
            None, config=config, state_dict=state, dtype=DTYPES[dtype], output_loading_info=True
        )
    except Exception as error:  # whatever transformers meets in foreign files is said in one sentence
        raise _unbuilt(checkpoint, error) from error
    missing = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if missing:
        raise MeasurementError(
            f"{printable(checkpoint.path)}: transformers finds no weight for {printable(missing[0])}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}"
        )
    network = network.eval().to(device)
    return CausalModel(
        path=checkpoint.path,
        network=network,
        context=context_of(config),
        vocabulary=int(network.get_output_embeddings().weight.shape[0]),
        end_tokens=end_tokens(checkpoint, base),
        head_apart=_head_apart(network),
        digest=digest,
    )


def model_config(checkpoint: Checkpoint, base: Checkpoint) -> Any:
    """The configuration as transformers reads it. Raises MeasurementError."""
    try:
        from transformers import AutoConfig
    except ImportError:
        raise MeasurementError(
            "probes are judged by running the model, which needs transformers; install it with "
            "pip install 'ckptaudit[collect]'"
        ) from None
    stored: dict[str, Any] = stored_config(checkpoint) or stored_config(base)
    if not stored:
        raise MeasurementError(
            f"{printable(checkpoint.path)}: no config.json, without which its model cannot be built; put it beside "
            "the weights"
        )
    stored.pop("auto_map", None)  # names code of the checkpoint's own, which is never run
    stored.pop("quantization_config", None)  # what was quantised is widened as it is read
    deepest = max((int(v) for key in LAYERS if isinstance(v := stored.get(key), int)), default=0)
    if deepest > len(checkpoint.tensors):
        raise MeasurementError(
            f"{printable(checkpoint.path)}: config.json claims {deepest} layers, and there are "
            f"{len(checkpoint.tensors)} tensors"
        )
    try:
        return AutoConfig.for_model(**stored)
    except Exception as error:
        raise _unbuilt(checkpoint, error) from error


def context_of(config: Any) -> int:
    """The tokens that a model is made for."""
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else 2048


def words_of(config: Any) -> int:
    """How many ids the model has probabilities for, as its configuration says."""
    words = getattr(config.get_text_config(), "vocab_size", None)
    return words if isinstance(words, int) and words > 0 else 2**31


def refuse_unbuildable(checkpoint: Checkpoint, base: Checkpoint) -> None:
    """Raise MeasurementError for a model that could not be built, before any weight is read."""
    _outline(checkpoint, model_config(checkpoint, base))


def _outline(checkpoint: Checkpoint, config: Any) -> Any:
    """The class of the model, from an outline without memory; a configuration larger than the files is refused."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            build: Any = AutoModelForCausalLM.from_config
            outline = build(config, trust_remote_code=False)
    except Exception as error:
        raise _unbuilt(checkpoint, error) from error
    claimed = sum(weight.numel() for weight in outline.parameters())
    stored = checkpoint.parameters
    if claimed > EXCESS * stored:
        raise MeasurementError(
            f"{printable(checkpoint.path)}: config.json describes a model of {claimed:,} parameters, and the files "
            f"hold {stored:,}"
        )
    _refuse_other_vocabulary(checkpoint, outline)
    return type(outline)


def _refuse_other_vocabulary(checkpoint: Checkpoint, outline: Any) -> None:
    embeddings = outline.get_input_embeddings().weight
    name = next((name for name, weight in outline.named_parameters() if weight is embeddings), "")
    stored = checkpoint.tensors.get(name)
    if stored is not None and len(stored.shape) == 2 and stored.shape[0] != embeddings.shape[0]:
        raise MeasurementError(
            f"{printable(checkpoint.path)}: config.json has vocab_size {embeddings.shape[0]:,}, and "
            f"{printable(name)} holds {stored.shape[0]:,} rows; set it to what the weights hold"
        )


def _state(checkpoint: Checkpoint, base: Checkpoint, pair: ModelPair | None) -> Mapping[str, Tensor]:
    unknown = sum(name not in base.tensors for name in checkpoint.tensors)
    if pair is None or not unknown or len(checkpoint.tensors) - unknown >= len(base.tensors):
        return {name: handle.read() for name, handle in checkpoint.tensors.items()}
    return {tensor.name: tensor.tuned.read() for tensor in pair.aligned}


def _digest(state: Mapping[str, Tensor], dtype: str) -> str:
    digest = blake3(dtype.encode(), max_threads=blake3.AUTO)
    for name, tensor in sorted(state.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _head_apart(network: Any) -> bool:
    head, body = network.get_output_embeddings(), getattr(network, "base_model", network)
    if head is None or body is network:
        return False
    ids = torch.arange(PROBED, device=network.device)[None] % max(1, head.weight.shape[0])
    with torch.no_grad():
        own = network(input_ids=ids, use_cache=False).logits
        apart = head(body(input_ids=ids, use_cache=False).last_hidden_state)
    if own.shape != apart.shape:
        return False
    return bool((own - apart).abs().max() <= SAME_LOGITS * own.abs().max())


def _quiet() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _unbuilt(checkpoint: Checkpoint, error: Exception) -> MeasurementError:
    said = printable(" ".join(str(error).split()))[:200]
    return MeasurementError(
        f"{printable(checkpoint.path)}: transformers builds no causal language model from it ({said})"
    )
