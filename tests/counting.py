"""An extractor that writes down, in a file that all processes share, which waveforms it has processed."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import Wav2Vec2FeatureExtractor

from hf_audio_cache.processors.output_specs import made_up_sound

_RATE = 16_000


class CountingExtractor(Wav2Vec2FeatureExtractor):
    """Wav2Vec2's, and a line in the file ``$COUNTED`` for each clip; it takes some seconds for each."""

    seconds = 0.02

    def __call__(self, raw_speech: Any, **kwargs: Any) -> Any:
        made_up = made_up_sound((len(raw_speech[0]) + 0.5) / _RATE, _RATE)  # by which an extractor is known
        if not np.array_equal(raw_speech[0], made_up):
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
