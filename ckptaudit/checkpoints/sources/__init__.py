"""Where the bytes of a checkpoint come from, if not from a file here: object stores, web servers, the hub."""

from __future__ import annotations

from ckptaudit.checkpoints.sources.remote_paths import ENDINGS, RemotePath, Tree
from ckptaudit.checkpoints.sources.stores import Store
from ckptaudit.checkpoints.sources.urls import BUCKETS, Url, is_url, parse_url

__all__ = ["RemotePath", "is_url", "remote_path"]


def remote_path(text: str) -> RemotePath:
    """The place that a URL names; nothing is read yet, but of the hub which commit it is.

    Raises CheckpointError for a URL that is not read, or where a package is missing.
    """
    url = parse_url(text)
    is_file = url.key.endswith(ENDINGS)
    root = url.key.rpartition("/")[0] if is_file else url.key
    shown = str(Url(url.scheme, url.root, "", url.revision))
    return RemotePath(Tree(_store(url), shown, root), url.key)


def _store(url: Url) -> Store:
    # Imported late: most audits read nothing remote.
    if url.scheme in BUCKETS:
        from ckptaudit.checkpoints.sources.object_stores import BucketStore

        return BucketStore(url)
    if url.scheme == "hf":
        from ckptaudit.checkpoints.sources.hub import HubStore

        return HubStore(url)
    from ckptaudit.checkpoints.sources.web import WebStore

    return WebStore(f"{url.scheme}://{url.root}")
