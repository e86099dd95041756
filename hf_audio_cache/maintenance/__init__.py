"""Looking after a root: list its entries, show usage, verify, prune, copy, and explain hits and misses."""
