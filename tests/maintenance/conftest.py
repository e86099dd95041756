"""Roots that are full, to be looked after."""

from full_roots import clips, copy_of, full_roots, root  # noqa: F401 - fixtures
