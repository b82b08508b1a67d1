# SPDX-License-Identifier: Apache-2.0
"""Our list of public data sets: ``dataset: NAME`` finds them without an entry of the user's own."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

LISTING = Path(__file__).with_name("public_datasets.yaml")
_HUBS = {"hf": "hf_hub_url", "ms": "ms_hub_url", "om": "om_hub_url"}


@cache
def public_datasets() -> dict[str, dict[str, Any]]:
    """Entries as ``dataset_info.json`` would hold them, by name."""
    import yaml

    listed: dict[str, dict[str, Any]] = yaml.safe_load(LISTING.read_text(encoding="utf-8"))
    return {name: {_HUBS.get(key, key): value for key, value in entry.items()} for name, entry in listed.items()}
