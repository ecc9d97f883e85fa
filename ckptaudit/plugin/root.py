"""Keeping the checkpoints' folders out of pytest's own set-up."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import pytest

FOUND_AT_FIRST = pytest.StashKey[Path | None]()
"""The settings that pytest had obeyed before this plugin was loaded."""


def take_root_from_where_pytest_started(config: pytest.Config, args: list[str]) -> None:
    """Find root and settings again, from the current folder and the file arguments alone.

    Otherwise the root is some folder above the checkpoints, where ids and the cache of `--lf` have
    no business, and the settings of the project that runs the gate go unread. pytest has no public
    way to say so; on a release whose inside looks different this does nothing.
    """
    known = config.known_args_namespace
    is_audit = any(getattr(known, name, None) for name in ("base", "audit_rollouts"))
    if not is_audit or known.inifilename or known.rootdir:
        return
    try:
        from _pytest.config.findpaths import determine_setup

        asked: dict[str, Any] = {
            "inifile": None,
            "override_ini": known.override_ini,
            "args": known.file_or_dir,
            "rootdir_cmd_arg": None,
            "invocation_dir": config.invocation_params.dir,
        }
        # Older releases take no override_ini.
        taken = signature(determine_setup).parameters.keys()
        found = determine_setup(**{name: value for name, value in asked.items() if name in taken})
    except (ImportError, TypeError, AttributeError):
        return
    config.stash[FOUND_AT_FIRST] = config.inipath
    before = list(config.getini("addopts"))
    config._rootpath, config._inipath, config._inicfg = found[:3]
    config._inicache.clear()
    if args[: len(before)] == before:
        args[: len(before)] = config.getini("addopts")
