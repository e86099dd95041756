"""Which entries the root has; those that only the near tier has are put there again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from ..errors import StoreError, UnknownVersionError, UnsignedEntryError
from ..stores import Store
from ..support.batches import batches
from .entry import LONGEST_END, USUAL_END, check_signature, manifest_at_end
from .signing import SigningKeys

_BATCH = 64  # entries in memory at once


class Presence:
    """Says which entries of one cache exist, by their names.

    The root counts, and not the near tier: other machines read the root alone. In a signed root, entries without a
    signature do not count.
    """

    def __init__(
        self, store: Store, check: Callable[[str, bytes], Exception | None], signing_keys: SigningKeys | None
    ) -> None:
        self._store = store
        self._check = check
        self._signing_keys = signing_keys

    def exist(self, names: Sequence[str]) -> list[bool]:
        """Return, for each name, whether the root has such an entry."""
        if self._signing_keys is None:
            return self._store.exists_many(names)
        signed = {name for batch in batches(names, _BATCH) for name in self._signed_among(batch)}
        if self._store.copies is not None:  # what was read may have been a copy
            asked = list(signed)
            signed = {name for name, there in zip(asked, self._store.exists_many(asked), strict=True) if there}
        return [name in signed for name in names]

    def are_readable(self, names: Sequence[str]) -> list[bool]:
        """Return, for each name, whether this machine can read an entry: from the near tier or from the root."""
        copies = self._store.copies
        near = [False] * len(names) if copies is None else copies.exists_many(names)
        there = iter(self.exist([name for name, is_near in zip(names, near, strict=True) if not is_near]))
        return [is_near or next(there) for is_near in near]

    def secure(self, names: Sequence[str]) -> tuple[list[bool | StoreError], int]:
        """Put what only the near tier has into the root again; return what is there then, and how many bytes were put.

        If only the near tier has an entry and the root refuses it, the error says why.
        """
        answers: list[bool | StoreError] = [*self.exist(names)]
        copies = self._store.copies
        n_bytes = 0
        if copies is not None:
            for places in batches((place for place, is_there in enumerate(answers) if not is_there), _BATCH):
                batch = [names[place] for place in places]
                objects = self._good_copies(batch, copies)
                failed = self._store.refuse_puts(objects) or self._store.put_copies(objects)
                for name, place in zip(batch, places, strict=True):
                    answers[place] = failed.get(name, name in objects)
                n_bytes += sum(len(content) for name, content in objects.items() if name not in failed)
        return answers, n_bytes

    def manifests(self, names: Sequence[str]) -> list[bytes | UnknownVersionError]:
        """Return the manifest of each entry, unchecked, or the error that it is of a later version.

        The ends of files on this machine are read. An object store is not asked for each: it gives no manifests.
        """
        store = self._store if self._store.is_local else self._store.copies
        if store is None:
            return [b""] * len(names)
        found = [_manifest(end) for end in store.ends_many(names, USUAL_END)]
        longer = [place for place, manifest in enumerate(found) if manifest is None]
        ends = store.ends_many([names[place] for place in longer], LONGEST_END)
        found_longer = {place: _manifest(end) for place, end in zip(longer, ends, strict=True)}
        return [found_longer.get(place, manifest) or b"" for place, manifest in enumerate(found)]

    def _good_copies(self, names: Sequence[str], copies: Store) -> dict[str, bytes]:
        found = copies.get_many(names)
        return {
            name: content
            for name, content in zip(names, found, strict=True)
            if isinstance(content, bytes) and self._check(name, content) is None
        }

    def _signed_among(self, names: Sequence[str]) -> list[str]:
        found = self._store.get_many(names)
        signed = []
        for name, content in zip(names, found, strict=True):
            if isinstance(content, bytes) and self._signing_keys is not None:
                with contextlib.suppress(UnsignedEntryError):
                    check_signature(content, name, self._signing_keys)
                    signed.append(name)
        return signed


def _manifest(end: bytes | StoreError | None) -> bytes | UnknownVersionError | None:
    try:
        return manifest_at_end(end) if isinstance(end, bytes) else b""
    except UnknownVersionError as exc:
        return exc
