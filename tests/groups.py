"""Which tests stay together on one worker of pytest-xdist, and which of them begin first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

# The groups that take longest, which begin first: else one of them alone would end the run, on one core.
LONGEST = (
    *("ray", "test_notebooks", "test_both_clients", "test_main_job_remote", "test_faults_leaks", "test_faults_packs"),
    *("test_faults_network", "test_sessions", "test_main_job", "test_benchmarks", "test_guest", "test_streaming"),
    *("test_stand_in", "test_training_scripts", "test_bare_os", "test_all_extractors", "test_own_code"),
    *("test_mutations", "test_equal_identities", "test_faults_disk", "test_two_machines", "test_signing"),
    *("test_faults_hostile", "test_prefetch", "test_faults_audio"),
)


def group_of(nodeid: str) -> str:
    """Return the group of a test, which stays on one worker: its module, or one for all that use Ray."""
    path, _, test = nodeid.partition("::")
    module = Path(path).stem
    return "ray" if module.startswith("test_ray_") or test.endswith("[docs/ray.md]") else module


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Schedule by groups, of our own: xdist's do nothing since pytest 9.2 (pytest-dev/pytest-xdist#1386)."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return GroupScheduling(config, log)
