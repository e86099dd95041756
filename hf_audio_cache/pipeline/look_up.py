"""First step: identify the clips of a batch, and look them up in the cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..audio.file_hashes import find_hashes, learn_hashes
from ..audio.source import AudioSource, local_path, read_source
from ..cache.entry_cache import KeyT
from ..errors import AudioError
from ..support.threads import in_threads

__all__ = ["Clips", "look_up"]

FoundT = TypeVar("FoundT")


@dataclass(frozen=True)
class Clips(Generic[KeyT, FoundT]):
    """The clips of a batch, and what the cache has of them.

    Attributes
    ----------
    sources
        For each audio cell its content, or why there is none. Content is None where the clip was found by the
        remembered hash of its file.
    keys
        The key of each clip by its ``blob_sha``.
    found
        What was found, by ``blob_sha``.
    """

    sources: list[AudioSource | AudioError]
    keys: dict[str, KeyT]
    found: dict[str, FoundT]

    def missing(self) -> list[AudioSource]:
        """Return the clips that were not found, each once."""
        clips = {source.blob_sha: source for source in self.sources if isinstance(source, AudioSource)}
        return [source for blob_sha, source in clips.items() if blob_sha not in self.found]


def look_up(
    cells: Sequence[Any],
    key_of: Callable[[str], KeyT],
    find: Callable[[list[KeyT]], list[FoundT | None]],
    known: Sequence[str | None] | None = None,
) -> Clips[KeyT, FoundT]:
    """Return the clips in audio cells, each looked up once; all at a time.

    A file whose hash is remembered is read only if the cache has nothing for it.

    Parameters
    ----------
    cells
        The audio cells.
    key_of
        Gives the key for a ``blob_sha``.
    find
        Gives what the cache has for each key, or None.
    known
        The ``blob_sha`` of each cell, as far as it was known before. Of a file that is there it is not believed.
    """
    paths = [local_path(cell) for cell in cells]
    hashes = find_hashes(paths)
    if known is not None:
        hashes = [
            before if path is None or not os.path.exists(path) else remembered
            for path, remembered, before in zip(paths, hashes, known, strict=True)
        ]
    sources = in_threads(_read, list(zip(cells, hashes, strict=True)))
    clips: Clips[KeyT, FoundT] = Clips(sources, {}, {})
    _find_new(clips, key_of, find)
    unread = [
        row
        for row, source in enumerate(sources)
        if isinstance(source, AudioSource) and source.content is None and source.blob_sha not in clips.found
    ]
    for row, source in zip(unread, in_threads(_read, [(cells[row], None) for row in unread]), strict=True):
        sources[row] = source
    _find_new(clips, key_of, find)  # files that changed since their hash was looked up
    learn_hashes((s.file, s.blob_sha) for s in sources if isinstance(s, AudioSource) and s.file is not None)
    return clips


def _find_new(
    clips: Clips[KeyT, FoundT],
    key_of: Callable[[str], KeyT],
    find: Callable[[list[KeyT]], list[FoundT | None]],
) -> None:
    """Look up the clips that have no key yet."""
    new = {
        source.blob_sha: key_of(source.blob_sha)
        for source in clips.sources
        if isinstance(source, AudioSource) and source.blob_sha not in clips.keys
    }
    answers = zip(new, find(list(new.values())), strict=True) if new else ()
    clips.found.update((blob_sha, answer) for blob_sha, answer in answers if answer is not None)
    clips.keys.update(new)


def _read(cell_and_hash: tuple[Any, str | None]) -> AudioSource | AudioError:
    """Return the content of an audio cell, not read if its hash is known."""
    cell, blob_sha = cell_and_hash
    if blob_sha is not None:
        path = local_path(cell) or (cell.get("path") if isinstance(cell, Mapping) else None)
        return AudioSource(path or f"the clip with sha256 {blob_sha[:12]}", blob_sha, None)
    try:
        return read_source(cell)
    except AudioError as exc:
        return exc
