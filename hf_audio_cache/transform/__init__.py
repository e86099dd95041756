"""What `datasets` and Ray call: `CachedFeatures`, references to features, batches, columns and streams."""
