"""An audio cell on its way to a waveform: its bytes, their hash, and the decoded samples.

A cell is what a dataset's audio column holds: a path or URL, encoded bytes, or a decoded array.
"""
