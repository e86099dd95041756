"""Files at URLs, such as a dataset's audio: many read at once, and the version of each without reading it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...errors import StoreError
from ..near_folders import place_of
from .batching import NOT_ASKED
from .errors import kind_of, store_error
from .fsspec_store import FsspecStore

# Listings of these have the version of each file, and take one request for a thousand files.
_LISTED = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf")
_FEWEST_LISTED = 8  # files that were asked for in a folder before it is listed
_LISTING_COUNTS = 30.0  # s
_LONGEST_LISTING = 3.0  # s; what takes longer has too many files to be listed
_TAGS = ("generation", "ETag", "etag", "blob_id")
_AT_ONCE = (32, 8, 2)  # files in each attempt: on a slow line fewer of them end in time
_READ_SECONDS = 60.0  # that a file may take: recordings may be large, while an object of a cache takes less
_DELAY = 0.5  # s, at most, before a retry
_jitter = random.SystemRandom()  # no generator that the user has seeded


class FileVersion(NamedTuple):
    """What changes whenever a file at a URL does."""

    tag: str  # entity tag or generation
    n_bytes: int
    sha256: str | None  # if the store says it: the Hub does for files under Git LFS


@dataclass(frozen=True)
class _Listing:
    taken: float
    versions: Mapping[str, FileVersion] | None  # None: the folder is too large, or may not be listed


class FarFiles:
    """The files of one host or bucket.

    `url` is that of any file there. Raises InvalidRootError if there is no file system for it, or its driver is not
    installed.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None) -> None:
        self._base = self.base_of(url)
        self._protocol = url.partition("://")[0]
        self._store = FsspecStore(self._base, storage_options, timeouts=(5.0, _READ_SECONDS))
        self.place = place_of(url, storage_options)
        self._listings: dict[str, _Listing] = {}
        self._asked: Counter[str] = Counter()

    @staticmethod
    def base_of(url: str) -> str:
        """Return what the URLs of one host or bucket have in common."""
        protocol, _, path = url.partition("://")
        return f"{protocol}://{path.partition('/')[0]}"

    def read_many(self, urls: Sequence[str]) -> list[bytes | StoreError]:
        """Return, for each URL, the content of the file, or why it cannot be read."""
        found: dict[str, bytes | StoreError] = {}
        wanted = list(dict.fromkeys(urls))
        for attempt, at_once in enumerate(_AT_ONCE):
            if attempt:
                time.sleep(_jitter.uniform(0, _DELAY * attempt))
            answers = self._ask(wanted, at_once)
            for url, answer in answers.items():
                if answer is not NOT_ASKED or url not in found:
                    failed = isinstance(answer, Exception)
                    found[url] = store_error("read", url, url, answer, self._store.redact) if failed else bytes(answer)
            kinds = {url: answer.kind for url in wanted if isinstance(answer := found[url], StoreError)}
            repeated = {"throttled", "unreachable"}
            if attempt == 0 and repeated.isdisjoint(kinds.values()) and kinds and self._store.renew():
                repeated |= {"denied", "unauthenticated"}  # the credentials may have expired
            wanted = [url for url, kind in kinds.items() if kind in repeated]
            wanted.sort(key=lambda url: answers[url] is not NOT_ASKED)
            if not wanted:
                break
        return [found[url] for url in urls]

    def _ask(self, urls: Sequence[str], at_once: int) -> dict[str, Any]:
        """Return the content of each file, or an exception.

        A bad file must not take others with it: those that were left out, because it failed, are asked for again as
        long as some are read. And only what takes as long as the largest counts as a store that hangs.
        """
        answers: dict[str, Any] = {}
        left = list(urls)
        while left:
            paths = [(self._path(url),) for url in left]
            some = self._store.ask("cat_file", paths, patience=0.9 * _READ_SECONDS, at_once=at_once)
            answers.update(zip(left, some, strict=True))
            is_read = any(not isinstance(answer, Exception) for answer in some)
            left = [url for url in left if is_read and answers[url] is NOT_ASKED]
        return answers

    def versions(self, urls: Sequence[str], *, are_new: bool = False) -> list[FileVersion | None]:
        """Return, for each URL, the version of the file; None if its store does not say it.

        If they `are_new`, each file is asked for now; otherwise a listing of its folder counts for 30 s.
        """
        known: dict[str, FileVersion | None] = {}
        alone = list(dict.fromkeys(urls))
        if are_new and self._protocol == "hf":  # which lists the folder for each file; its hashes need not be learnt
            return [None] * len(urls)
        if not are_new and self._protocol in _LISTED:
            for folder, n_files in Counter(map(_folder, alone)).items():
                known.update(self._listed(folder, n_files))
            alone = [url for url in alone if url not in known]
        answers = self._store.ask("info", [(self._path(url),) for url in alone])
        known.update(zip(alone, map(_version, answers), strict=True))
        return [known.get(url) for url in urls]

    def _listed(self, folder: str, n_files: int) -> Mapping[str, FileVersion]:
        """Return the versions of all files of a folder where a listing pays; two threads may list it at once."""
        listing = self._listings.get(folder)
        if listing is not None and listing.versions is None:
            return {}
        if listing is None or time.monotonic() - listing.taken > _LISTING_COUNTS:
            self._asked[folder] += n_files
            if self._asked[folder] < _FEWEST_LISTED and self._protocol != "hf":
                return {}
            taken = time.monotonic()
            [answer] = self._store.ask("ls", [(self._path(folder),)], limit=_LONGEST_LISTING)
            if isinstance(answer, Exception) and kind_of(answer) in ("throttled", "unauthenticated", "no bucket"):
                return {}  # the files themselves say what is wrong
            listing = _Listing(taken, None if isinstance(answer, Exception) else self._by_url(folder, answer))
            self._listings[folder] = listing
        return listing.versions or {}

    def _by_url(self, folder: str, listing: Iterable[Mapping[str, Any]]) -> dict[str, FileVersion]:
        return {
            f"{folder}/{str(found['name']).rpartition('/')[2]}": version
            for found in listing
            if (version := _version(found)) is not None
        }

    def _path(self, url: str) -> str:
        return url.removeprefix(self._base).removeprefix("/")


def _folder(url: str) -> str:
    return url.rpartition("/")[0]


def _version(found: Any) -> FileVersion | None:
    """Return the version in what fsspec says of a file."""
    if not isinstance(found, Mapping) or found.get("type") == "directory" or found.get("size") is None:
        return None
    tag = next((str(found[name]) for name in _TAGS if found.get(name)), "")
    if not tag or tag.startswith("W/"):  # a weak tag may stay when bytes change
        return None
    sha256 = getattr(found.get("lfs"), "sha256", None)
    return FileVersion(tag, int(found["size"]), sha256 if isinstance(sha256, str) and len(sha256) == 64 else None)
