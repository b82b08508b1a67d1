# SPDX-License-Identifier: Apache-2.0
"""Machines that are ended with the test that started them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Where machines of one launch start."""
    site = Site(tmp_path)
    yield site
    site.close()
