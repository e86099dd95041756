"""Packs: many entries in a few large files; docs/packs.md has the format."""
