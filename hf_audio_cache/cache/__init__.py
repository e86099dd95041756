"""One root: names, keys and entries, the cache of features and the cache of waveforms, and who used them when."""
