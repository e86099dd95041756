"""Writes docs/extractors.md, the table of all audio extractors: ``python tests/extractors_table.py``.

Every figure is of a run of the installed package on real speech. `tests/test_all_extractors.py` compares the committed
table with what a run finds, times aside.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import extractors
import numpy as np
from audio_files import decode_audio

from hf_audio_cache import CachedFeatures
from hf_audio_cache.processors.extractor import extract

TABLE = Path(__file__).resolve().parent.parent / "docs" / "extractors.md"
SECONDS = 3.0
COLUMNS = ("extractor", "works", "without torch", "bit-identical", "outputs for 3 s", "extract ms", "read ms", "saves")
TIMES = ("extract ms", "read ms", "saves")

_INTRODUCTION = """# Audio extractors of transformers

Each audio feature extractor of transformers {transformers}, called through `CachedFeatures` on {seconds:g} s of read
speech at its own sampling rate, with its default arguments. Written by `python tests/extractors_table.py`; a test
compares it with what it finds itself, times aside.

- *works*: yes, or what the extractor raises here, where optional libraries that it needs are not installed.
- *without torch*: whether it works in an environment without torch; else the error says what to install.
- *bit-identical*: whether the features, computed and read again, have the bits of a direct call with the same waveform.
- *extract ms*: what decoding the clip (a WAV file) and one call of the extractor take, without a cache.
- *read ms*: what the same features take from the cache on a local disk, from the bytes of the clip to arrays.
- *saves*: whether reading takes less time than that. Formats that are slower to decode than WAV save more.

Times are the best of seven on one machine ({machine}, Python {python}{torch}): take them as orders of magnitude.
`UnivNet` is called with `processor_kwargs={{"return_noise": False}}`, since its noise is random.

"""


@dataclass(frozen=True)
class Row:
    """One extractor in the table: its cells by column."""

    cells: dict[str, str]

    def without_times(self) -> dict[str, str]:
        return {name: cell for name, cell in self.cells.items() if name not in TIMES}


def measure(name: str, *, timed: bool = True) -> Row:
    """Return the row of one extractor."""
    problem = extractors.problem(name)
    if problem is not None:
        return Row(dict.fromkeys(COLUMNS, "") | {"extractor": f"`{name}`", "works": problem.replace("|", "\\|")})
    extractor = extractors.make(name)
    kwargs = extractors.PROCESSOR_KWARGS.get(name, {})
    rate = extractor.sampling_rate
    cell = extractors.cell(SECONDS, rate)
    with tempfile.TemporaryDirectory() as root:
        cached_features = CachedFeatures(extractor, root, processor_kwargs=kwargs)
        computed = cached_features({"audio": cell})
        read = cached_features({"audio": cell})
        expected = extractors.rows_of_one_clip(extractors.call(extractor, extractors.clip(SECONDS, rate)))
        cells = {
            "extractor": f"`{name}`",
            "works": "yes",
            "without torch": "yes" if name in without_torch() else "no",
            "bit-identical": "yes" if same_bits(computed, expected) and same_bits(read, expected) else "no",
            "outputs for 3 s": "; ".join(f"`{output}`: {form(value)}" for output, value in expected.items()),
        }
        if timed:
            waveform_of = extractors.clip(SECONDS, rate)
            extract_ms = best(lambda: extract(extractor, waveform_of, rate, kwargs))
            extract_ms += best(lambda: decode_audio(cell["bytes"], sampling_rate=rate))
            read_ms = best(lambda: cached_features({"audio": cell}))
            cells["extract ms"] = f"{extract_ms:.1f}"
            cells["read ms"] = f"{read_ms:.1f}"
            cells["saves"] = "yes" if read_ms < extract_ms else "no"
    return Row(dict.fromkeys(COLUMNS, "") | cells)


# What is None there cannot be imported.
_WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
sys.path.insert(0, sys.argv[1])
import extractors
print(*extractors.usable())
"""


@functools.cache
def without_torch() -> frozenset[str]:
    """Return the names of those that can be called without torch."""
    told = [sys.executable, "-W", "ignore", "-c", _WITHOUT_TORCH, str(Path(__file__).parent)]
    return frozenset(subprocess.run(told, stdout=subprocess.PIPE, text=True, check=True).stdout.split())


def best(call: Callable[[], Any]) -> float:
    """Return the shortest of seven times, in milliseconds."""
    took = []
    for _ in range(7):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return min(took) * 1000


def same_bits(outputs: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Return whether outputs have the names, dtypes, shapes and bytes of the expected ones."""
    if list(outputs) != list(expected):
        return False
    for name, value in expected.items():
        found = outputs[name]
        if isinstance(value, (np.ndarray, np.generic)):
            array = np.asarray(found)
            if (array.dtype, array.shape, array.tobytes()) != (value.dtype, value.shape, value.tobytes()):
                return False
        elif found != value:
            return False
    return True


def form(value: Any) -> str:
    """Return the dtype and the shape of an output, or what it is."""
    if isinstance(value, (np.ndarray, np.generic)):
        return f"{value.dtype.name} {list(value.shape)}" if value.shape else value.dtype.name
    return repr(value)


def rows(text: str) -> list[Row]:
    """Return the rows of a table as it is written."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    cells = [line.strip("|").replace("\\|", "\0").split(" | ") for line in lines]
    return [
        Row({name: cell.replace("\0", "\\|").strip() for name, cell in zip(COLUMNS, one, strict=True)}) for one in cells
    ]


def page(table: list[Row]) -> str:
    """Return the whole page."""
    torch = f", torch {importlib.metadata.version('torch')}" if importlib.util.find_spec("torch") else ", no torch"
    introduction = _INTRODUCTION.format(
        transformers=importlib.metadata.version("transformers"),
        seconds=SECONDS,
        machine=platform.machine(),
        python=platform.python_version(),
        torch=torch,
    )
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS)]
    lines += [f"| {' | '.join(row.cells[name] for name in COLUMNS)} |" for row in table]
    return introduction + "\n".join(lines) + "\n"


def main() -> None:
    warnings.simplefilter("ignore")
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(page([measure(name) for name in extractors.names()]), encoding="utf-8")
    sys.stdout.write(f"{TABLE}\n")


if __name__ == "__main__":
    main()
