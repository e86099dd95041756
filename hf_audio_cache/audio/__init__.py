"""An audio cell on its way to a waveform: its bytes, their hash, and the decoded samples.

A cell is what a dataset's audio column holds: a path or URL, encoded bytes, or a decoded array. `read_source` gives its
content and the sha256 of that; `decode_audio` and `to_waveform` make the waveform. The hashes of local files are
remembered, so that a file that has not changed is not read only to be hashed.
"""

from .decode import AUDIO_SUFFIXES, decode_audio
from .file_hashes import find_hashes, learn_hashes
from .source import AudioSource, is_audio_cell, local_path, read_source
from .waveform import to_waveform

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioSource",
    "decode_audio",
    "find_hashes",
    "is_audio_cell",
    "learn_hashes",
    "local_path",
    "read_source",
    "to_waveform",
]
