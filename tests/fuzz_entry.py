"""Coverage-guided fuzzing of the entry reader: ``python tests/fuzz_entry.py SECONDS [CORPUS_DIR]``.

The inputs start from small entries of every kind and from ``tests/corpus/``. A mutator of our own changes manifests,
frames, ``.npy`` headers and zip records, and mostly repairs the checksum after it, since nothing would get past it
otherwise. Whatever comes out of that, the reader must raise `CorruptEntryError`, or give arrays of the dtype and shape
that the manifest says, within the memory that it promises, and with nothing in them that was in memory before.

The last line says what was done; the exit status is not 0 if anything was found. What was found is left in
``CORPUS_DIR-findings``, or in a directory that is named. Needs atheris: ``pip install hf_audio_cache[fuzz]``.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_MAX_BYTES = 1 << 16
_SLACK = 1 << 28  # what tails, and deflated files, may unpack to, whatever the size of the file
_RATIO = 1000
_MEMORY = 6 << 30

_INTERESTING = [0, 1, -1, 2, 15, 16, 17, 127, 128, 255, 256, 32767, 65535, 65536, 1 << 24, (1 << 31) - 1, 1 << 31]
_INTERESTING += [(1 << 32) - 1, 1 << 32, 1 << 36, (1 << 63) - 1, 1 << 63, 1 << 64, 1 << 200]
_VALUES: list[Any] = [*_INTERESTING, 1.5, 1e308, float("nan"), float("inf"), True, False, None, "", "x", [], {}, [[]]]
_VALUES += [
    "raw",
    "json",
    "blosc",
    "pcm16",
    "<f4",
    ">f4",
    "<f8",
    "|u1",
    "|b1",
    "<i2",
    "<c16",
    "<f16",
    "|O",
    "<U4",
    "|V8",
]
_VALUES += [[1 << 62], [0, 1 << 62], [-1], [1] * 70, [16, "00000000"], [1 << 30, "0000803f"], [True, ""], "../x", "a\n"]


# The process that fuzzes ----------------------------------------------------------------------------------------------


class _PoisonedNumpy:
    """NumPy, but what `empty` returns holds the given byte, so that what the reader leaves unwritten shows."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.poison = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def empty(self, shape: Any, dtype: Any) -> Any:
        array = self._module.empty(shape, dtype)
        array.reshape(-1).view("u1")[...] = self.poison
        return array


def _fuzz(arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["hf_audio_cache.cache", "zipfile"]):
        import hf_audio_cache.cache.entry as entry_module
        from hf_audio_cache.cache import codecs, foreign_npz
        from hf_audio_cache.cache.codecs import blosc, json_values, npy
    import entry_tools as tools
    from assertions import all_same

    from hf_audio_cache.errors import CorruptEntryError

    poisoned = _PoisonedNumpy(entry_module.np)
    for module in (entry_module, codecs, blosc, json_values, npy, foreign_npz):
        module.np = poisoned
    seeds = {tools.base(kind): tools.OUTPUTS[kind] for kind in tools.OUTPUTS}
    seeds[tools.base("savez")] = tools.OUTPUTS["raw"]
    others = [*seeds, *(path.read_bytes() for path in sorted(tools.CORPUS.iterdir()))]

    def read(data: bytes, poison: int) -> Any:
        poisoned.poison = poison
        try:
            entry = entry_module.open_entry(data, tools.KEY)
            assert 0 <= entry.compute_seconds < float("inf"), "it spoils the figures"
            return entry.read_all()
        except CorruptEntryError:
            return None

    def check(data: bytes) -> None:
        outputs = read(data, 0)
        if outputs is None:
            assert data not in seeds, "a good entry is refused"
            return
        again = read(data, 0xFF)
        assert again is not None, "what it gives depends on what was in memory"
        assert all_same(again, outputs), "what it gives was in memory, and is not in the file"
        arrays = {name: value for name, value in outputs.items() if hasattr(value, "dtype")}
        manifest = tools.manifest_of(data)
        if manifest is not None:
            lines = {line["name"]: line for line in manifest["members"] if line["codec"] != "json"}
            assert list(outputs) == [line["name"] for line in manifest["members"]]
            said = {name: (line["dtype"], tuple(line["shape"])) for name, line in lines.items()}
            read_as = {name: (array.dtype, array.shape) for name, array in arrays.items()}
            assert {name: (poisoned.dtype(dtype), shape) for name, (dtype, shape) in said.items()} == read_as
        assert sum(array.nbytes for array in arrays.values()) <= _SLACK + _RATIO * len(data), "a bomb"
        assert all(array.dtype.kind in "biufc" for array in arrays.values())
        if data in seeds:
            assert all_same(outputs, seeds[data]), "a good entry gives something else"

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            data = rng.choice(_STRATEGIES)(data, rng, others, tools, atheris)
        return data if len(data) <= max_size else data[:max_size]

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    atheris.Setup([sys.argv[0], *arguments], check, custom_mutator=mutate)
    atheris.Fuzz()


# Ways to change an entry ----------------------------------------------------------------------------------------------


def _any_bytes(data: bytes, rng: random.Random, others: list[bytes], tools: Any, atheris: Any) -> bytes:
    return atheris.Mutate(data, len(data) + 64)


def _body(data: bytes, rng: random.Random, others: list[bytes], tools: Any, atheris: Any) -> bytes:
    """Change bytes before the manifest, in places where headers are, and seal the entry."""
    parts = _parts(data, tools)
    if parts is None or len(parts[0]) < 64:
        return rng.choice(others)
    body, text = bytearray(parts[0]), parts[1]
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.choice(_places(bytes(body), rng))
        kind = rng.randrange(5)
        if kind == 0:
            body[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            width = rng.choice([1, 2, 4, 8])
            body[at : at + width] = (rng.choice(_INTERESTING) & (1 << 8 * width) - 1).to_bytes(width, "little")
        elif kind == 2:
            width = rng.choice([1, 2, 4])
            number = int.from_bytes(body[at : at + width], "little") + rng.choice([-4, -1, 1, 4, len(body)])
            body[at : at + width] = (number & (1 << 8 * width) - 1).to_bytes(width, "little")
        elif kind == 3:
            body[at : at + rng.randrange(1, 16)] = rng.randbytes(rng.randrange(1, 16))
        else:
            start = rng.randrange(len(body))
            body[at : at + 32] = body[start : start + 32]
    if len(body) < 22:
        return rng.choice(others)
    return tools.seal(bytes(body), text) if text else bytes(body)


def _places(body: bytes, rng: random.Random) -> list[int]:
    """Return positions near the records of zip, the headers of ``.npy`` and of frames, and a few anywhere."""
    places = [rng.randrange(len(body)) for _ in range(2)]
    for mark, width in (
        (b"PK\x03\x04", 60),
        (b"\x93NUMPY", 10),
        (b"{'descr", 118),
        (b"PK\x01\x02", 60),
        (b"PK\x05\x06", 20),
    ):
        found = [match.start() for match in re.finditer(re.escape(mark), body)]
        if found:
            places.append(rng.choice(found) + rng.randrange(width))
    frames = [match.end() for match in re.finditer(rb"\), \} *\n", body)]
    if frames:
        frame = rng.choice(frames)
        places += [frame + rng.randrange(16), frame + rng.randrange(16), frame + rng.randrange(16, 64)]
    return [place for place in places if place < len(body)]


def _manifest(data: bytes, rng: random.Random, others: list[bytes], tools: Any, atheris: Any) -> bytes:
    """Change a field of the manifest, and seal the entry."""
    parts = _parts(data, tools)
    try:
        manifest = json.loads(parts[1]) if parts else None
        lines = manifest["members"] if manifest else None
        line = rng.choice(lines) if lines else {}
    except (ValueError, TypeError, KeyError, RecursionError):
        return rng.choice(others)
    if parts is None or not isinstance(manifest, dict) or not isinstance(line, dict) or not line:
        return rng.choice(others)
    kind = rng.randrange(8)
    if kind == 0:
        manifest[rng.choice(["version", "key", "compute_seconds", "members", "more"])] = rng.choice(_VALUES)
    elif kind == 1 and len(lines) < 50:
        lines.append({**line, "name": f"copy{len(lines)}"})
    elif kind == 2:
        line.pop(rng.choice(list(line)), None)
    elif kind == 3 and isinstance(line.get("shape"), list) and line["shape"]:
        line["shape"][rng.randrange(len(line["shape"]))] = rng.choice(_VALUES)
    elif kind == 4 and isinstance(line.get("shape"), list):
        rng.shuffle(line["shape"])
        line["shape"] += rng.choice([[], [1], [0], [1, 1]])
    elif kind == 5:
        line["tail"] = [rng.choice(_INTERESTING), rng.choice(["00", "0000", "00000000", "0000803f", "00" * 8, "zz"])]
    elif kind == 6 and isinstance(line.get("offset"), int):
        line["offset"] += rng.choice([-64, -10, -1, 1, 10, 64, rng.randrange(len(data))])
    else:
        line[rng.choice(["name", "codec", "dtype", "shape", "offset", "tail", "more"])] = rng.choice(_VALUES)
    text = json.dumps(manifest, separators=(",", ":")).encode()
    return tools.seal(parts[0], text[:60_000])


def _manifest_text(data: bytes, rng: random.Random, others: list[bytes], tools: Any, atheris: Any) -> bytes:
    parts = _parts(data, tools)
    if parts is None or len(parts[0]) < 22:
        return rng.choice(others)
    text = bytes(atheris.Mutate(parts[1] or b"{}", len(parts[1]) + 64))[:60_000]
    return tools.seal(parts[0], text if rng.randrange(4) else text.rstrip(b"}") + b"}")


def _checked_zip(data: bytes, rng: random.Random, others: list[bytes], tools: Any, atheris: Any) -> bytes:
    """Make an ``.npz`` of another program of changed members, with right checksums, or with sizes that lie."""
    arrays = [tools.npy(value) for value in tools.OUTPUTS["raw"].values()]
    content = bytes(atheris.Mutate(rng.choice(arrays), 512)) if rng.randrange(3) else rng.choice(arrays)
    name = rng.choice(["x.npy", "x", "../x.npy", "x.blosc.npy", "x\n.npy", "y.npy"])
    if rng.randrange(2):
        return tools.zip_of((name, content), ("y.npy", arrays[1]), compression=rng.choice([0, 8]))
    method = rng.choice([0, 8])
    return tools.zip_by_hand(
        tools.deflated(content, rng.choice([0, 100, 10_000])) if method else content,
        [name.encode()] * rng.choice([1, 1, 2, 9]),
        size=rng.choice([len(content), *_INTERESTING]),
        crc=tools.zlib.crc32(content),
        method=method,
        offset=rng.choice([0, 0, 0, *_INTERESTING]),
        extra=rng.choice([b"", b"\x01\x00\x08\x00" + rng.randbytes(8), b"\x01\x00\x18\x00" + bytes(24)]),
    )


def _spliced(data: bytes, rng: random.Random, others: list[bytes], tools: Any, atheris: Any) -> bytes:
    """Put the manifest of one entry behind the body of another."""
    one, other = _parts(data, tools), _parts(rng.choice(others), tools)
    if one is None or other is None or len(one[0]) < 22:
        return rng.choice(others)
    return tools.seal(one[0], other[1])


def _parts(data: bytes, tools: Any) -> tuple[bytes, bytes] | None:
    return tools.split(data) if tools.END_OF_DIRECTORY in data else None


_STRATEGIES = [_any_bytes, _body, _body, _body, _manifest, _manifest, _manifest_text, _checked_zip, _spliced]


# The process that watches it ------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Fuzz in a process of its own, which may crash; say what came of it."""
    if arguments[:1] == ["--fuzz"]:
        _fuzz(arguments[1:])
        return 0
    seconds = int(arguments[0])
    kept = Path(arguments[1]).resolve() if len(arguments) > 1 else None
    scratch = Path(tempfile.mkdtemp(prefix="hf-audio-cache-fuzz-"))
    corpus = kept or scratch / "corpus"
    findings = corpus.with_name(f"{corpus.name}-findings")  # not in it: they would be inputs of the next run
    findings.mkdir(parents=True, exist_ok=True)
    corpus.mkdir(parents=True, exist_ok=True)
    import entry_tools as tools

    for kind in [*tools.OUTPUTS, "savez"]:
        (corpus / f"seed-{kind}").write_bytes(tools.base(kind))
    options = [f"-max_total_time={seconds}", f"-max_len={_MAX_BYTES}", "-timeout=10", "-rss_limit_mb=3000"]
    options += [f"-artifact_prefix={findings}/", "-print_final_stats=1", "-len_control=0"]
    seeds = [str(tools.CORPUS)] if tools.CORPUS.is_dir() else []
    with open(scratch / "log", "w+", encoding="utf-8", errors="replace") as log:
        child = subprocess.run(
            [sys.executable, __file__, "--fuzz", *options, str(corpus), *seeds],
            stdout=log,
            stderr=log,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            check=False,
        )
        log.seek(0)
        said = log.read()
    executions = re.findall(r"number_of_executed_units: (\d+)", said) or re.findall(r"^#(\d+)\t", said, re.M) or ["0"]
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", said) or [("0", "0", "0")]
    found = sorted(path.name for path in findings.iterdir())
    has_failed = bool(child.returncode or found or int(executions[-1]) == 0)
    if has_failed:
        print(said[-6000:], file=sys.stderr)  # noqa: T201 - its output is for a person
    else:
        shutil.rmtree(scratch)
    edges, features, inputs = covered[-1]
    print(  # noqa: T201
        f"fuzzed the entry reader for {seconds} s: {int(executions[-1]):,} executions, {edges} edges and {features} "
        f"features covered by {inputs} inputs, {len(found)} findings{f' in {findings}: {found}' if found else ''}"
    )
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
