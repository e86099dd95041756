"""What the cache costs and saves, beside what one would do instead: ``make bench``.

These are scripts and no tests: pytest collects nothing here. docs/benchmarks.md says what each of them shows.
"""
