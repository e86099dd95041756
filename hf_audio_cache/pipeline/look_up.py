"""First step: identify the clips of a batch, and look them up in the cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..audio.source import AudioSource, local_path
from ..cache.keys import KeyT
from ..errors import AudioError
from .audio_reader import AudioReader

FoundT = TypeVar("FoundT")


@dataclass(frozen=True)
class Clips(Generic[KeyT, FoundT]):
    """The clips of a batch, and what the cache has of them."""

    # The content of each audio cell, or its error. The bytes of a clip are None if it was found by its file's hash.
    sources: list[AudioSource | AudioError]
    keys: dict[str, KeyT]  # by ``blob_sha``
    found: dict[str, FoundT]  # by ``blob_sha``

    def each(self) -> dict[str, AudioSource]:
        """Return each clip once, by ``blob_sha``."""
        return {source.blob_sha: source for source in self.sources if isinstance(source, AudioSource)}

    def missing(self) -> list[AudioSource]:
        """Return the clips that were not found, each once."""
        return [source for blob_sha, source in self.each().items() if blob_sha not in self.found]


def look_up(
    cells: Sequence[Any],
    reader: AudioReader,
    key_of: Callable[[str], KeyT],
    find: Callable[[list[KeyT]], list[FoundT | None]],
    known: Sequence[str | None] | None = None,
) -> Clips[KeyT, FoundT]:
    """Return the clips in audio cells, each looked up once; all at a time.

    A file whose hash is remembered is read only if the cache has nothing for it. `find` gives what the cache has for
    each key, or None. `known` are the ``blob_sha`` of the cells as far as they were known before; for a local file that
    is there it is not believed.
    """
    cells = reader.located(cells)
    versions = reader.versions(cells) if known is None else [None] * len(cells)
    hashes = reader.remembered(cells, versions)
    if known is not None:
        paths = map(local_path, cells)
        hashes = [
            before if path is None or not os.path.exists(path) else remembered
            for path, remembered, before in zip(paths, hashes, known, strict=True)
        ]
    sources = reader.read_unknown(cells, hashes, versions)
    clips: Clips[KeyT, FoundT] = Clips(sources, {}, {})

    def find_new() -> None:
        new = {blob_sha: key_of(blob_sha) for blob_sha in clips.each() if blob_sha not in clips.keys}
        answers = zip(new, find(list(new.values())), strict=True) if new else ()
        clips.found.update((blob_sha, answer) for blob_sha, answer in answers if answer is not None)
        clips.keys.update(new)

    find_new()
    unread = [
        row
        for row, source in enumerate(sources)
        if isinstance(source, AudioSource) and source.content is None and source.blob_sha not in clips.found
    ]
    again = reader.read_unknown([cells[row] for row in unread], [None] * len(unread), [versions[row] for row in unread])
    for row, source in zip(unread, again, strict=True):
        sources[row] = source
    find_new()  # files that changed since their hash was looked up
    return clips
