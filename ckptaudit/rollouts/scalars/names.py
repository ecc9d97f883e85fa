"""The trainers' names of scalars, and the one name that each stands for."""

from __future__ import annotations

import re
from functools import lru_cache

_NAMES: dict[str, tuple[str, ...]] = {
    # verl; TRL; OpenRLHF; slime; NeMo-RL; prime-rl, as far as they log it
    "reward_mean": ("critic/score/mean", "critic/rewards/mean", "reward", "raw_reward", "reward/all/mean"),
    "reward_std": ("reward_std", "group_reward_std"),
    "zero_var_share": ("frac_reward_zero_std",),
    "kl_ref": ("actor/kl_loss", "actor/reward_kl_penalty", "kl", "kl_loss", "kl_penalty"),
    "update_kl": ("actor/ppo_kl", "ppo_kl"),
    "clip_share": ("actor/pg_clipfrac", "clip_ratio/region_mean", "ppo_clip_ratio", "pg_clipfrac"),
    "entropy": ("actor/entropy", "entropy", "entropy_loss", "approx_entropy", "entropy/all/mean"),
    "grad_norm": ("actor/grad_norm", "grad_norm", "actor_grad_norm", "optim/grad_norm"),
    "loss": ("actor/pg_loss", "loss", "policy_loss", "pg_loss"),
    "mismatch_k1": ("rollout_corr/kl", "vllm_kl"),
    "mismatch_k3": ("rollout_corr/k3_kl", "gen_kl_error", "mismatch_kl/all/mean"),
    "mismatch_abs": (
        "sampling/sampling_logp_difference/mean", "logprobs_diff", "train_rollout_logprob_abs_diff",
        "rollout_train_logprobs_abs_diff_mean",
    ),
    "mismatch_mult": ("token_mult_prob_error",),
    "ratio_mean_truncated": (
        "rollout_corr/rollout_is_mean", "sampling/importance_sampling_ratio/mean", "ois",
        "sampling_importance_ratio",
    ),
    "len_mean": (
        "response_length/mean", "completions/mean_length", "response_length", "response_len/mean",
        "mean_gen_tokens_per_sample", "seq_len/all/mean",
    ),
    "truncated_share": (
        "response_length/clip_ratio", "completions/clipped_ratio", "truncated", "truncated_ratio",
        "truncation_rate", "is_truncated/all/mean",
    ),
}  # fmt: skip
"""`ratio_mean_truncated` is logged after truncation or masking, so it says nothing of a tail and judges nothing."""


def _plain(name: str) -> str:
    """The name without a leading train/ or rollout/ and with the letters that MLflow replaces replaced."""
    return re.sub(r"[^A-Za-z0-9_\-./ ]", "_", re.sub(r"^(?:train|rollout)/", "", name))


_CANONICAL = {
    _plain(alias): (name, place) for name, aliases in _NAMES.items() for place, alias in enumerate(aliases)
}


def canonical_name(name: str) -> str | None:
    """The canonical name, or None for a scalar that has none, such as one of an evaluation."""
    found = _ranked(name)
    return None if found is None else found[0]


def rank(name: str) -> int:
    """The place of a name among those of one canonical name; of several at a step the first one counts."""
    found = _ranked(name)
    return 0 if found is None else found[1]


@lru_cache(maxsize=4096)
def _ranked(name: str) -> tuple[str, int] | None:
    return None if len(name) > 500 else _CANONICAL.get(_plain(name))
