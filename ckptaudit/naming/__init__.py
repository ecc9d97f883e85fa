"""Tensor names to layer and role, stored tensors to the matrices they hold. The rules: naming/families/."""

from __future__ import annotations

from ckptaudit.naming.groups import GROUPS, PRIMARY_GROUPS, in_groups, is_known, primary_group
from ckptaudit.naming.layouts import Layout, Part, with_lengths
from ckptaudit.naming.model import Naming
from ckptaudit.naming.places import Place, place, place_of_weight, short_name
from ckptaudit.naming.rules import Rules, Tie, families, rules

__all__ = [
    "GROUPS",
    "PRIMARY_GROUPS",
    "Layout",
    "Naming",
    "Part",
    "Place",
    "Rules",
    "Tie",
    "families",
    "in_groups",
    "is_known",
    "place",
    "place_of_weight",
    "primary_group",
    "rules",
    "short_name",
    "with_lengths",
]
