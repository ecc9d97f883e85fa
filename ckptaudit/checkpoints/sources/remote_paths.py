"""Places in an object store: the few methods of a path that the readers of checkpoints use."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import PurePosixPath

from ckptaudit.checkpoints.sources.remote_source import RemoteSource, readers
from ckptaudit.checkpoints.sources.stores import Store, with_retries
from ckptaudit.checkpoints.sources.urls import checked_key

ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json", ".gguf", ".distcp")
"""By these a name is a file's; any other is a folder's."""


@dataclass
class Tree:
    """What is known of a store while one audit reads it: its listing below one folder, and every opened object.

    An object is opened once, and from then on read as it was.
    """

    store: Store
    url: str
    root: str
    refused: list[str] = field(default_factory=list)
    _opened: dict[str, Future[RemoteSource]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def listing(self) -> Mapping[str, int] | None:
        """Keys and sizes below the root, but for names that no path has; None where the store does not list."""
        found = with_retries(lambda: self.store.listing(self.root))
        if found is None:
            return None
        return {key: size for key, size in found.items() if "//" not in key and ".." not in key.split("/")}

    @cached_property
    def folders(self) -> frozenset[str]:
        """Every folder that a listed object lies in."""
        return frozenset(str(above) for key in self.listing or () for above in PurePosixPath(key).parents)

    def source(self, key: str) -> RemoteSource:
        """The object, opened on first use. Raises OSError, FileNotFoundError where there is none."""
        with self._lock:
            mine = key not in self._opened
            opening = self._opened.setdefault(key, Future())
        if mine:
            self._open(key, opening)
        return opening.result()

    def open_all(self, keys: Iterable[str]) -> None:
        """Open several objects at once; what goes wrong is told to whoever asks for that one."""
        done = [readers().submit(self._quietly, key) for key in keys]
        for one in done:
            one.result()

    def _quietly(self, key: str) -> None:
        with suppress(Exception):
            self.source(key)

    def found(self) -> tuple[str, ...]:
        """The keys of every object that was opened."""
        with self._lock:
            return tuple(k for k, one in self._opened.items() if one.done() and one.exception() is None)

    def holds(self, key: str) -> bool:
        """Whether there is such an object; asked of the store itself only where it lists nothing."""
        if self.listing is not None and (key == self.root or key.startswith(f"{self.root}/") or not self.root):
            return key in self.listing
        try:
            self.source(key)
        except FileNotFoundError:
            return False
        except PermissionError:
            # Who may read objects but not list them is told 403 also of what is not there.
            self.refused.append(key)
            return False
        return True

    def _open(self, key: str, opening: Future[RemoteSource]) -> None:
        try:
            opening.set_result(RemoteSource(self.store, key, with_retries(lambda: self.store.open(key))))
        except FileNotFoundError:
            opening.set_exception(FileNotFoundError(2, "no such object", f"{self.url}/{key}"))
        except BaseException as error:
            opening.set_exception(error)


@dataclass(frozen=True)
class RemotePath:
    """A file or folder in a tree, by its key."""

    tree: Tree = field(repr=False)
    key: str

    def __str__(self) -> str:
        return f"{self.tree.url}/{self.key}" if self.key else self.tree.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(other) == str(self)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.tree, checked_key(f"{self.key}/{name}", self.tree.url))

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self.key).name

    @property
    def suffix(self) -> str:
        """The ending of the name."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> RemotePath:
        """The folder around it."""
        return RemotePath(self.tree, self.key.rpartition("/")[0])

    @property
    def lists_nothing(self) -> bool:
        """Whether the store does not tell what it holds, so that only known names are found."""
        return self.tree.listing is None

    @property
    def was_refused(self) -> bool:
        """Whether the store refused access to a name that was asked for."""
        return bool(self.tree.refused)

    def exists(self) -> bool:
        """Whether it is a file or a folder."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is such an object."""
        return self.key != "" and self.tree.holds(self.key)

    def is_dir(self) -> bool:
        """Whether objects lie below it; where nothing is listed, whether it is the folder that was given."""
        if self.tree.listing is None:
            return self.key == self.tree.root
        return (self.key or ".") in self.tree.folders

    def size(self) -> int:
        """Bytes of the object. Raises OSError if there is none."""
        listed = (self.tree.listing or {}).get(self.key)
        return self.source().size if listed is None else listed

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies directly in it; where the store does not list, what was found there so far."""
        start = f"{self.key}/" if self.key else ""
        known = self.tree.found() if self.lists_nothing else self.tree.listing or ()
        names = {key[len(start) :].partition("/")[0] for key in known if key.startswith(start)}
        yield from (self / name for name in sorted(names) if name and "\\" not in name and name.isprintable())

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """What lies directly in it under a pattern without folders."""
        yield from (child for child in self.iterdir() if fnmatchcase(child.name, pattern))

    def open_all(self, names: Iterable[str]) -> None:
        """Open several objects of this folder at once."""
        self.tree.open_all(f"{self.key}/{name}".lstrip("/") for name in names)

    def source(self) -> RemoteSource:
        """Its bytes. Raises OSError if there is no such object."""
        return self.tree.source(self.key)
