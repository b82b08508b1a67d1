# SPDX-License-Identifier: Apache-2.0
"""One world for all tests of this folder, whole before each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .world import World


@pytest.fixture(scope="session")
def shared_world(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> World:
    return World(tmp_path_factory.mktemp("damage"), tiny_llama)


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    yield shared_world
    shared_world.restore()
