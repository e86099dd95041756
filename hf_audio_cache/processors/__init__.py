"""Calling a feature extractor on one clip, and its identity: the sha256 of all that can change its output."""
