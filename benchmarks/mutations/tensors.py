"""Damages to single tensors, at places of every role."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.mutations.mutation import Mutation, Place, chosen_rows, on_tensors

LAYER = "layers.1."
ATTENTION = Place("one query matrix", (f"{LAYER}self_attn.q_proj.weight",))
MLP = Place("one down projection", (f"{LAYER}mlp.down_proj.weight",))
EVERY = Place(
    "all matrices of layers", tuple(f"{m}_proj.weight" for m in ("q", "k", "v", "o", "gate", "up", "down"))
)
OUT = Place("last output projection", ("layers.3.self_attn.o_proj.weight",))
GATE = Place("first gate projection", ("layers.0.mlp.gate_proj.weight",))
HEAD = Place("output head", ("lm_head.weight",))
EMBEDDINGS = Place("embeddings", ("embed_tokens.weight",))
NORM = Place("norms", ("norm.weight", "layernorm.weight"))
FINAL = Place("final norm", ("model.norm.weight",))
BIAS = Place("query biases", ("q_proj.bias",))
VALUES = Place("value biases", ("v_proj.bias",))
ROUTER = Place("routers", ("router.weight",), "hybrid")
EXPERTS = Place("experts", ("experts.gate_up_proj",), "hybrid")
STATE_IN = Place("state space, in", ("mamba.in_proj.weight",), "hybrid")
STATE_A = Place("state space, A_log", ("mamba.A_log",), "hybrid")
STATE_CONV = Place("state space, convolution", ("mamba.conv1d.weight",), "hybrid")

MATRICES = (ATTENTION, OUT, MLP, GATE, EVERY, HEAD, EMBEDDINGS)
ROWS = (ATTENTION, HEAD, EMBEDDINGS, ROUTER)
EVERYWHERE = (*MATRICES, NORM, FINAL, BIAS, VALUES, ROUTER, EXPERTS, STATE_IN, STATE_A, STATE_CONV)

SHARES = (0.01, 0.1, 1.0)


def scaled(before: Tensor, after: Tensor, strength: float) -> Tensor:
    """Everything grows by a share of itself."""
    return after * (1 + strength)


def noisy(before: Tensor, after: Tensor, strength: float) -> Tensor:
    """Noise of a share of the root mean square is added."""
    random = torch.Generator().manual_seed(0)
    return after + strength * after.square().mean().sqrt() * torch.randn(after.shape, generator=random)


def negated(before: Tensor, after: Tensor, strength: float) -> Tensor:
    """A share of the rows changes its sign."""
    rows = chosen_rows(after, strength)
    after[rows] = -after[rows]
    return after


def zeroed(before: Tensor, after: Tensor, strength: float) -> Tensor:
    """A share of the rows is zero."""
    after[chosen_rows(after, strength)] = 0.0
    return after


def permuted(before: Tensor, after: Tensor, strength: float) -> Tensor:
    """A share of the rows, two at least, trade places with each other."""
    rows = chosen_rows(after, max(strength, 2 / len(after)))
    after[rows] = after[rows.roll(1)]
    return after


def restored(before: Tensor, after: Tensor, strength: float) -> Tensor:
    """A share of the rows, in one block, is the base's."""
    count = round(strength * len(after))
    after[:count] = before[:count]
    return after


def poisoned(before: Tensor, after: Tensor, strength: float) -> Tensor:
    """One entry is not a number."""
    after.view(-1)[after.numel() // 2] = float("nan")
    return after


def flipped(before: Tensor, after: Tensor, strength: float) -> Tensor:
    """One bit of an entry of ordinary size is the other way: bit 7 is the lowest of a bf16 exponent, 14 the top."""
    flat = after.to(torch.bfloat16).contiguous().view(torch.int16).view(-1)
    sizes = after.abs().view(-1)
    at = int((sizes - sizes.median()).abs().argmin())
    flat[at] ^= 1 << int(strength)
    return flat.view(torch.bfloat16).view(after.shape).float()


def stepped(before: Tensor, after: Tensor, strength: float) -> Tensor:
    """The update times a factor."""
    return before + strength * (after - before)


def mutations() -> list[Mutation]:
    """All of them."""
    fine, coarse = (0.003, 0.01, 0.03, 0.1, 1.0), (0.01, 0.03, 0.1, 0.3, 1.0)
    return [
        *on_tensors("scale", EVERYWHERE, fine, scaled, "relative"),
        *on_tensors("noise", EVERYWHERE, coarse, noisy, "of the rms"),
        *on_tensors("sign", (*ROWS, OUT, MLP, NORM, FINAL, BIAS, VALUES), SHARES, negated, "of the rows"),
        *on_tensors(
            "zero", (*ROWS, OUT, MLP, NORM, FINAL, BIAS, VALUES, EXPERTS, STATE_CONV), SHARES, zeroed, "of the rows"
        ),
        *on_tensors("permute rows", (*ROWS, MLP, EXPERTS), SHARES, permuted, "of the rows"),
        *on_tensors(
            "rows at the base", (ATTENTION, EVERY, HEAD), (0.02, 0.1, 0.25, 0.5, 1.0), restored, "of the rows"
        ),
        *on_tensors("NaN in one entry", EVERYWHERE, ("",), lambda b, a, s: poisoned(b, a, 0.0)),
        *on_tensors("flip one bit", (ATTENTION, HEAD, EMBEDDINGS, NORM, BIAS, ROUTER), BITS, flipped, "bit"),
        *on_tensors("update times", (EVERY,), (2.0, 3.0, 5.0, 10.0, 30.0), stepped, "factor"),
        *on_tensors("update times, reversed", (EVERY,), (-1.0, -2.0, -3.0, -5.0, -10.0), stepped, "factor"),
        *on_tensors("update times", (HEAD, EMBEDDINGS), (3.0, 10.0, 30.0, 100.0), stepped, "factor"),
    ]


BITS = (7, 9, 11, 13, 14)
