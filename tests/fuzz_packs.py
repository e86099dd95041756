"""Coverage-guided fuzzing of the readers of packs and of their indexes: ``python tests/fuzz_packs.py SECONDS``.

The mutator changes fields of headers, tables and rows, and mostly repairs the checksums after it. Whatever comes out of
that, the readers must raise `CorruptEntryError` or `UnknownVersionError`, or name places within bounds, within the time
and memory that the size of the file allows. The exit status is not 0 if anything was found.
"""

from __future__ import annotations

import os
import random
import re
import resource
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

_MAX_BYTES = 1 << 15
_MEMORY = 4 << 30
_NUMBERS = [0, 1, 2, 127, 128, 129, 255, 511, 512, 513, 65535, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, (1 << 64) - 1]


def _fuzz(arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["hf_audio_cache.stores.packs"]):
        from hf_audio_cache.stores.packs import index as index_module
        from hf_audio_cache.stores.packs import tar as tar_module
    import numpy as np
    import xxhash
    from pack_tools import entry_name

    from hf_audio_cache.errors import CorruptEntryError, UnknownVersionError
    from hf_audio_cache.stores.packs.names import entry_key

    names = [entry_name(number) for number in range(300)]
    keys = [entry_key(name) or b"" for name in names]
    packs = ["0" * 32, "f" * 32]

    def seed_of(count: int) -> bytes:
        rows = np.zeros(count, index_module.ROW)
        for place, key in enumerate(keys[:count]):
            rows[place] = (*struct.unpack("<QQ", key), 1000 * place, 100, place % 2)
        return index_module.encode_index(index_module.sort_rows(rows), packs)

    objects = [(name, bytes(10 * place), 1.0) for place, name in enumerate(names[:20])]
    seeds = [b"I" + seed_of(count) for count in (0, 1, 128, 129, 300)] + [b"T" + tar_module.encode_pack(objects)[0]]

    def check(data: bytes) -> None:
        content = data[1:]
        asked = 0

        def read(start: int, n_bytes: int) -> bytes:
            nonlocal asked
            asked += 1
            assert asked < 10_000 + len(content), "it reads without end"
            assert 0 <= start < 1 << 65
            return content[start : start + n_bytes]

        try:
            if data[:1] == b"T":
                found = tar_module.read_entries(read, len(content))
                assert len(found) <= len(content)
            else:
                index = index_module.Index(read, len(content))
                for key in keys[::7]:
                    for place in index.find(key):
                        assert place.pack in index.packs
                        assert 0 <= place.offset < 1 << 64
                rows = [row for some in index.rows() for row in some.tolist()]
                assert len(rows) <= index.n_rows
                found = []
        except (CorruptEntryError, UnknownVersionError):
            found = []
        if data[:1] == b"T":
            found += tar_module.read_whole(read, len(content))
        for entry in found:
            assert 0 <= entry.offset <= entry.offset + entry.length <= len(content), "it lies outside of the pack"
            assert entry_key(entry.name) is not None

    def seal(content: bytearray) -> bytes:
        """Give an index the checksums that it needs, as far as its numbers make sense."""
        if len(content) < 40:
            return bytes(content)
        n_rows, n_packs = struct.unpack_from("<QI", content, 16)
        n_blocks = -(-n_rows // 128)
        rows_at = 40 + 16 * (n_packs + n_blocks)
        if rows_at <= len(content):
            for block in range(n_blocks):
                start = rows_at + 4096 * block
                digest = xxhash.xxh3_64_intdigest(bytes(content[start : start + 4096]))
                struct.pack_into("<Q", content, 40 + 16 * n_packs + 8 * (n_blocks + block), digest)
        checked = bytes(content[:32]) + bytes(content[40 : min(rows_at, len(content))])
        struct.pack_into("<Q", content, 32, xxhash.xxh3_64_intdigest(checked))
        return bytes(content)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.2:
            return bytes(atheris.Mutate(data, max_size))
        kind, content = data[:1], bytearray(data[1:])
        if len(content) < 64:
            return rng.choice(seeds)
        for _ in range(rng.choice([1, 1, 2, 5])):
            limit = rng.choice([48, 48, 600, len(content)])
            at = rng.randrange(min(limit, len(content)))
            width = rng.choice([1, 4, 8])
            number = rng.choice(_NUMBERS) if rng.random() < 0.7 else rng.getrandbits(64)
            content[at : at + width] = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        if rng.random() < 0.2:
            del content[rng.randrange(len(content)) :]
        sealed = seal(content) if kind != b"T" and rng.random() < 0.8 else bytes(content)
        return (kind + sealed)[:max_size]

    if arguments[:1] == ["--seeds"]:
        for number, one in enumerate(seeds):
            Path(arguments[1], f"seed-{number}").write_bytes(one)
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    atheris.Setup([sys.argv[0], *arguments], check, custom_mutator=mutate)
    atheris.Fuzz()


def main(arguments: list[str]) -> int:
    """Fuzz in a process of its own, which may crash; say what came of it."""
    if arguments[:1] == ["--fuzz"]:
        _fuzz(arguments[1:])
        return 0
    with tempfile.TemporaryDirectory(prefix="hf-audio-cache-fuzz-") as scratch:
        corpus, findings = Path(scratch, "corpus"), Path(scratch, "findings")
        corpus.mkdir()
        findings.mkdir()
        own = [sys.executable, __file__, "--fuzz"]
        subprocess.run([*own, "--seeds", str(corpus)], check=True, capture_output=True)
        options = [f"-max_total_time={int(arguments[0])}", f"-max_len={_MAX_BYTES}", "-timeout=10", "-len_control=0"]
        options += ["-rss_limit_mb=3000", f"-artifact_prefix={findings}/", "-print_final_stats=1", str(corpus)]
        child = subprocess.run([*own, *options], capture_output=True, text=True, errors="replace", check=False)
        found = {path.name: path.read_bytes()[:200].hex() for path in findings.iterdir()}
    executions = re.findall(r"number_of_executed_units: (\d+)", child.stderr) or ["0"]
    covered = re.findall(r"cov: (\d+) ft: (\d+)", child.stderr) or [("0", "0")]
    has_failed = bool(child.returncode or found or int(executions[-1]) == 0)
    if has_failed:
        sys.stderr.write(f"{child.stderr[-6000:]}\n{found}\n")
    sys.stdout.write(
        f"fuzzed the readers of packs for {arguments[0]} s: {int(executions[-1]):,} executions, {covered[-1][0]} edges "
        f"covered, {len(found)} findings{os.linesep}"
    )
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
