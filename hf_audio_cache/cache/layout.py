"""Names of the files under a root."""

from __future__ import annotations

__all__ = ["TAG", "TAG_NAME"]

TAG_NAME = "CACHEDIR.TAG"  # https://bford.info/cachedir/: backup programs leave such a directory out
TAG = b"""Signature: 8a477f597d28d172789f06886806bc55
# This directory holds audio features and waveforms that hf_audio_cache can compute again.
"""
