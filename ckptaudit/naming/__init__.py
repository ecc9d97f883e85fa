"""Tensor names to layer and role, stored tensors to the matrices they hold. The rules: ckptaudit/naming/families/."""

from __future__ import annotations

from ckptaudit.naming.layouts import Layout, Part
from ckptaudit.naming.model import Naming
from ckptaudit.naming.places import GROUPS, Place, in_groups, place
from ckptaudit.naming.rules import Rules, families, rules

__all__ = ["GROUPS", "Layout", "Naming", "Part", "Place", "Rules", "families", "in_groups", "place", "rules"]
