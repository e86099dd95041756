"""An audio cell on its way to a waveform: its bytes, their hash, and the decoded samples.

A cell is what a dataset's audio column holds: a path or URL, encoded bytes, or a decoded array. `read_source` gives its
content and the sha256 of that; `decode_audio` and `to_waveform` make the waveform. The hashes of local files are
remembered, so that a file that has not changed is not read only to be hashed.
"""
