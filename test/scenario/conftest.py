# SPDX-License-Identifier: ISC
"""Fixtures: the certificates, and SERs by configuration; a failed test shows the log of its SER."""
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from certs import Folder  # noqa: E402
from ser import Pool  # noqa: E402


def pytest_configure(config):
    # The tests ask for TLS versions that Python calls obsolete.
    config.addinivalue_line("filterwarnings", "ignore:.*TLSv1.* is deprecated:DeprecationWarning")
    config.addinivalue_line("markers", "stress: takes minutes")
    config.addinivalue_line("markers", "build: compiles the module by itself")


@pytest.fixture(scope="session")
def certs():
    # Not below pytest's own folder, which other users cannot enter.
    with tempfile.TemporaryDirectory(prefix="certs-") as path:
        yield Folder(Path(path))


@pytest.fixture(scope="module")
def module_pool():
    pool = Pool()
    yield pool
    pool.stop_all()


@pytest.fixture
def pool(module_pool):
    """Pool.get() shares a SER within the test file, Pool.fresh() makes one for this test."""
    module_pool.begin_test()
    yield module_pool
    module_pool.stop_singles()
    module_pool.check_shared()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    pool = getattr(item, "funcargs", {}).get("module_pool")
    if report.failed and pool is not None:
        for ser in pool.everyone():
            report.sections.append((f"log of SER in {ser.dir}", ser.tail(80)))
