"""What an entry holds, in words and as a picture."""

from __future__ import annotations

import numpy as np
import pytest

from hf_audio_cache import AudioCache, AudioCacheKey
from hf_audio_cache.maintenance.inspect import inspect_entries, plot_entry

KEY = AudioCacheKey("ab" * 32, "cd" * 32, 16_000, 0)
SHOWN = {
    "a line": ({"input_values": np.arange(4, dtype=np.float32)}, "float32 (4,), 0 to 3, mean 1.5"),
    "a picture": ({"input_features": np.eye(3, dtype=np.float32)}, "float32 (3, 3), 0 to 1, mean 0.3333"),
    "a cube": ({"input_features": np.ones((2, 2, 2), np.int16)}, "int16 (2, 2, 2), 1 to 1, mean 1"),
    "truths": ({"input_features": np.array([True, False])}, "bool (2,)"),
    "JSON": ({"input_features": {"words": ["a", "b"]}}, "JSON {'words': ['a', 'b']}"),
}


@pytest.mark.parametrize("kind", SHOWN)
def test_an_entry_is_described_and_drawn(kind, tmp_path):
    outputs, words = SHOWN[kind]
    AudioCache(tmp_path / "features").put(KEY, outputs)
    [entry] = inspect_entries(tmp_path, KEY.blob_sha[:8])
    assert entry.outputs == dict.fromkeys(outputs, words)
    assert words in repr(entry)
    picture = tmp_path / "picture.png"
    if kind in ("a line", "a picture"):
        plot_entry(entry, picture)
        assert picture.read_bytes().startswith(b"\x89PNG")
    else:
        with pytest.raises(ValueError, match=r"^Nothing was drawn: no array of .* has one or two axes"):
            plot_entry(entry, picture)
        assert not picture.exists()
