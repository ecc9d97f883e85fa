"""Keeping the checkpoints' folders out of pytest's own set-up."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptaudit.errors import printable


def refuse_settings_of_checkpoints(config: pytest.Config) -> None:
    """Raise UsageError if pytest took its settings out of a checkpoint.

    pytest looks for them around every path on the command line, before it knows that these are
    option values. A checkpoint with a pytest.ini could so deselect the checks that it would fail.
    """
    known = config.known_args_namespace
    for path in filter(None, (getattr(known, "base", None), *(getattr(known, "tuned", None) or ()))):
        if config.inipath is not None and config.inipath.resolve().is_relative_to(Path(path).resolve()):
            raise pytest.UsageError(
                f"{printable(config.inipath)}: this checkpoint brings its own pytest configuration; "
                "remove the file, or name your own with -c."
            )


def take_root_from_where_pytest_started(config: pytest.Config, args: list[str]) -> None:
    """Find root and settings again, from the current folder and the file arguments alone.

    Otherwise the root is some folder above the checkpoints, where ids and the cache of `--lf` have
    no business, and the settings of the project that runs the gate go unread. pytest has no public
    way to say so; on a release whose inside looks different this does nothing.
    """
    known = config.known_args_namespace
    if getattr(known, "base", None) is None or known.inifilename or known.rootdir:
        return
    try:
        from _pytest.config.findpaths import determine_setup

        found = determine_setup(
            inifile=None,
            override_ini=known.override_ini,
            args=known.file_or_dir,
            rootdir_cmd_arg=None,
            invocation_dir=config.invocation_params.dir,
        )
    except (ImportError, TypeError, AttributeError):
        return
    before = list(config.getini("addopts"))
    config._rootpath, config._inipath, config._inicfg = found[:3]
    config._inicache.clear()
    if args[: len(before)] == before:
        args[: len(before)] = config.getini("addopts")
