"""Read audio cells. A file whose hash is remembered is read only if its audio is needed; far ones, many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..audio.file_hashes import FarState, find_hashes, learn_hashes
from ..audio.source import AudioSource, far_url, local_path, located, read_source
from ..errors import AudioError, AudioSourceError, InvalidRootError, StoreError
from ..stores import CHECK_NETWORK, FarFiles, FileVersion
from ..support.secrets import Secret
from ..support.threads import in_threads

_REMEDIES = {
    "": "Check that the file is where the dataset says.",
    "throttled": "Its store asks for fewer requests: read in fewer processes at once.",
    "unreachable": f"{CHECK_NETWORK}.",
    "no bucket": "Check the bucket's name, and the endpoint (audio_storage_options=).",
}
_CREDENTIALS = (
    "Check the credentials, and that they may read it: pass audio_storage_options={…}, or set them where the file "
    "system looks for them, such as in the environment. Those of the cache's root (storage_options) are not used for "
    "audio."
)
_DRIVER = 'Install what it names; for s3://, gs:// and az://: pip install "hf_audio_cache[s3]", "[gcs]" or "[azure]".'


class AudioReader:
    """Reads the audio cells of one dataset; relative paths start from `data_dir`, or the working directory."""

    def __init__(self, data_dir: str | None = None, storage_options: Secret[Mapping[str, Any]] | None = None) -> None:
        self._data_dir, self._storage_options = data_dir, storage_options
        self._hosts: dict[str, FarFiles | None] = {}

    def read(self, cells: Sequence[Any]) -> list[AudioSource | AudioError]:
        """Return the content of each cell, or why it cannot be read."""
        return self._read(self.located(cells), [None] * len(cells))

    def identify(self, cells: Sequence[Any]) -> list[AudioSource | AudioError]:
        """Return the same without the content of files whose hash is remembered."""
        cells = self.located(cells)
        versions = self.versions(cells)
        return self.read_unknown(cells, self.remembered(cells, versions), versions)

    def located(self, cells: Sequence[Any]) -> list[Any]:
        """Return the cells with their paths as they are read."""
        return [located(cell, self._data_dir) for cell in cells]

    def versions(self, cells: Sequence[Any]) -> list[FileVersion | None]:
        """Return the version of each cell's far file; None for other cells."""
        return self._versions_of(list(map(far_url, cells)))

    def _versions_of(self, urls: Sequence[str | None], *, are_new: bool = False) -> list[FileVersion | None]:
        versions: list[FileVersion | None] = [None] * len(urls)
        for files, rows in self._by_host(urls):
            if files is not None:
                found = files.versions([str(urls[row]) for row in rows], are_new=are_new)
                for row, version in zip(rows, found, strict=True):
                    versions[row] = version
        return versions

    def remembered(self, cells: Sequence[Any], versions: Sequence[FileVersion | None]) -> list[str | None]:
        """Return the ``blob_sha`` of each cell's file that is known without reading it."""
        files = [local_path(cell) or self._state(cell, version) for cell, version in zip(cells, versions, strict=True)]
        said = [None if version is None else version.sha256 for version in versions]
        return [one or other for one, other in zip(said, find_hashes(files), strict=True)]

    def _state(self, cell: Any, version: FileVersion | None) -> FarState | None:
        url = far_url(cell)
        files = None if url is None or version is None else self._files(url)
        if url is None or version is None or files is None:
            return None
        return FarState(url, files.place, version.tag, version.n_bytes)

    def read_unknown(
        self, cells: Sequence[Any], hashes: Sequence[str | None], versions: Sequence[FileVersion | None]
    ) -> list[AudioSource | AudioError]:
        """Return the content of each cell whose hash is None, and remember the hashes of their files."""
        sources: list[AudioSource | AudioError] = [
            AudioSource(_clip(cell, blob_sha), blob_sha, None) if blob_sha is not None else AudioSourceError("")
            for cell, blob_sha in zip(cells, hashes, strict=True)
        ]
        rows = [row for row, blob_sha in enumerate(hashes) if blob_sha is None]
        read = self._read([cells[row] for row in rows], [versions[row] for row in rows])
        for row, source in zip(rows, read, strict=True):
            sources[row] = source
        learn_hashes((s.file, s.blob_sha) for s in read if isinstance(s, AudioSource) and s.file is not None)
        return sources

    def _read(self, cells: Sequence[Any], versions: Sequence[FileVersion | None]) -> list[AudioSource | AudioError]:
        urls = list(map(far_url, cells))
        sources: list[AudioSource | AudioError | None] = [None] * len(cells)
        for files, rows in self._by_host(urls):
            if files is None:
                continue
            contents = files.read_many([str(urls[row]) for row in rows])
            for row, content in zip(rows, contents, strict=True):
                url = str(urls[row])
                sources[row] = (
                    _error(url, content, _REMEDIES.get(content.kind, _CREDENTIALS))
                    if isinstance(content, StoreError)
                    else read_source({"bytes": content, "path": url})
                )
        self._note_states(cells, urls, versions, sources)
        near = [row for row, source in enumerate(sources) if source is None]
        for row, source in zip(near, in_threads(_read_one, [cells[row] for row in near]), strict=True):
            sources[row] = source
        return [source for source in sources if source is not None]

    def _note_states(
        self,
        cells: Sequence[Any],
        urls: Sequence[str | None],
        versions: Sequence[FileVersion | None],
        sources: list[AudioSource | AudioError | None],
    ) -> None:
        """Add the state of each far file that was read whole, and was the same before and after."""
        rows = [row for row, version in enumerate(versions) if version and isinstance(sources[row], AudioSource)]
        now = self._versions_of([urls[row] for row in rows], are_new=True)
        for row, version in zip(rows, now, strict=True):
            source = sources[row]
            if not isinstance(source, AudioSource) or version is None or version != versions[row]:
                continue
            if len(source.content or b"") == version.n_bytes:  # a server may end early without a word
                sources[row] = replace(source, file=self._state(cells[row], version))

    def _by_host(self, urls: Sequence[str | None]) -> list[tuple[FarFiles | None, list[int]]]:
        """Return the rows of each host's URLs."""
        hosts: dict[str, list[int]] = {}
        for row, url in enumerate(urls):
            if url is not None:
                hosts.setdefault(FarFiles.base_of(url), []).append(row)
        return [(self._files(str(urls[rows[0]])), rows) for rows in hosts.values()]

    def _files(self, url: str) -> FarFiles | None:
        """Return the files of a URL's host; None if `read_source` must read it."""
        host = FarFiles.base_of(url)
        if host not in self._hosts:
            options = None if self._storage_options is None else self._storage_options.value
            try:
                self._hosts[host] = FarFiles(url, options)
            except InvalidRootError:
                self._hosts[host] = None
        return self._hosts[host]


def _read_one(cell: Any) -> AudioSource | AudioError:
    try:
        return read_source(cell)
    except AudioError as exc:
        missing = exc.__cause__ if isinstance(exc.__cause__, ImportError) else None
        return exc if missing is None else _error(exc.clip, missing, _DRIVER)


def _clip(cell: Any, blob_sha: str) -> str:
    path = local_path(cell) or far_url(cell) or (cell.get("path") if isinstance(cell, Mapping) else None)
    return path or f"the clip with sha256 {blob_sha[:12]}"


def _error(url: str, error: Exception, remedy: str) -> AudioSourceError:
    made = AudioSourceError(f"The audio file {url} could not be read. It cannot be used. {remedy} ({error})", clip=url)
    made.__cause__ = error
    return made
