# SPDX-License-Identifier: Apache-2.0
"""What a hub refuses, said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..extras.errors import ConfigError, first_line


@contextmanager
def hub_refusals(key: str, repo: str, kept: Path | None = None) -> Iterator[None]:
    """Turn what the hub's client raises into one line.

    Args:
        key: That named the repository.
        repo: The repository.
        kept: What was written here and stays, whatever the hub says.

    Raises:
        ConfigError: The hub cannot be reached, or refuses.
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        stays = "" if kept is None else f"; {kept} is written and stays"
        raise ConfigError(f"{key}: '{repo}' cannot be pushed to: {first_line(error)}{stays}") from error
