"""An extractor that writes down, in a file that all processes share, which waveforms it has processed."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Wav2Vec2FeatureExtractor

_PROBES = (16_000, 20_000, 24_000, 41 * 16_000)  # samples of the made-up clips by which an extractor is known


class CountingExtractor(Wav2Vec2FeatureExtractor):
    """Wav2Vec2's, and a line in the file ``$COUNTED`` for each clip; it takes some seconds for each."""

    seconds = 0.02

    def __call__(self, raw_speech: Any, **kwargs: Any) -> Any:
        if len(raw_speech[0]) not in _PROBES:
            with open(os.environ["COUNTED"], "a", encoding="ascii") as file:
                file.write(f"{os.getpid()} {hashlib.sha256(raw_speech[0].tobytes()).hexdigest()}\n")
            time.sleep(self.seconds)
        return super().__call__(raw_speech, **kwargs)


@dataclass(frozen=True)
class Counted:
    """How often each waveform was processed, by its sha, and by which processes."""

    times: Counter[str]
    processes: set[int]


def counted(path: Path) -> Counted:
    """Return what stands in the file."""
    lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    return Counted(Counter(sha for _, sha in lines), {int(process) for process, _ in lines})
