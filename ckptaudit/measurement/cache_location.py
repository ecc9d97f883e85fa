"""Where the cache is: its folder, its size and the one below it, as an option or the environment says."""

from __future__ import annotations

import os
from pathlib import Path

from ckptaudit.errors import CacheError, CkptAuditError, parameter, printable
from ckptaudit.foreign_files.places import Place
from ckptaudit.measurement.base_cache import DEFAULT_LIMIT, LIMIT, OFF, FactorCache
from ckptaudit.sizes import parse_size

LOCATION = "CKPTAUDIT_CACHE"
SHARED = "CKPTAUDIT_CACHE_SHARED"


def open_cache(given: str | None = None) -> FactorCache | None:
    """The cache at `given`, else at $CKPTAUDIT_CACHE, else in the user's own cache folder; None for `off`.

    Below it lies $CKPTAUDIT_CACHE_SHARED, if that is set. Raises CacheError if the folder that was asked for cannot
    be one, $CKPTAUDIT_CACHE_SHARED cannot be read, or $CKPTAUDIT_CACHE_LIMIT is no size.
    """
    asked = given or os.environ.get(LOCATION) or None
    if asked == OFF:
        return None
    limit = _limit()
    shared = _shared()
    if asked is not None:
        asked_by = parameter("cache") if given else LOCATION
        return FactorCache(_expanded(asked, asked_by), limit=limit, asked_by=asked_by, shared=shared)
    # Nobody asked for one: without a home, or room in it, there is simply no cache.
    folder = _default_folder()
    if folder is None:
        return None
    try:
        cache = FactorCache(folder, limit=limit, shared=shared)
    except CacheError:
        return None
    return None if cache.trouble else cache


def _expanded(asked: str, asked_by: str) -> Path:
    try:
        return Path(asked).expanduser()
    except RuntimeError as error:
        raise CacheError(f"{asked_by} {printable(asked)}: this user has no home; name another folder.") from error


def _default_folder() -> Path | None:
    from platformdirs import user_cache_path

    try:
        folder = user_cache_path("ckptaudit", appauthor=False)
    except RuntimeError:  # no home is set, and the system does not know this user
        return None
    # Earlier releases give a path that begins with a tilde instead.
    return folder if folder.is_absolute() else None


def _limit() -> int:
    text = os.environ.get(LIMIT)
    if not text:
        return DEFAULT_LIMIT
    try:
        return parse_size(text)
    except ValueError as error:
        raise CacheError(f"{LIMIT}={printable(text)}: {error}.") from None


def _shared() -> Place | None:
    text = os.environ.get(SHARED)
    if not text:
        return None
    from ckptaudit.checkpoints.sources import remote_path
    from ckptaudit.checkpoints.sources.urls import is_url

    try:
        place = remote_path(text) if is_url(text) else _expanded(text, SHARED)
        found = place.is_dir()
    except (OSError, ValueError, CkptAuditError) as error:
        raise CacheError(f"{SHARED}={printable(text)}: cannot be read ({printable(error)}).") from None
    if not found:
        raise CacheError(f"{SHARED}={printable(text)}: no such folder; name one that is there, or unset it.")
    return place
