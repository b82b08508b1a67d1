# SPDX-License-Identifier: Apache-2.0
"""Rows of data sets on a hub: Hugging Face, ModelScope, Modelers (OpenMind). No loading script is ever run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...extras.errors import ConfigError, first_line
from ...extras.hub import look_for_hub, look_for_other_hub
from .arrow_rows import rows_of
from .dataset_info import DatasetAttr

_BATCH = 1000


def open_hub(attr: DatasetAttr) -> Iterable[dict[str, Any]]:
    """Download one split (cached by the hub's library) and return its rows; media in them are not decoded yet."""
    from datasets import Dataset

    loaders = {"hf": _load_hugging_face, "ms": _load_modelscope, "om": _load_openmind}
    rows = loaders[attr.place](attr)
    return _stored_rows(rows) if isinstance(rows, Dataset) else rows


def _stored_rows(rows: Any) -> Iterator[dict[str, Any]]:
    """Rows as they are stored: an image as ``{"bytes", "path"}``, which costs nothing until it is looked at."""
    for table in rows.with_format("arrow").iter(_BATCH):
        yield from rows_of(table)


def _load_hugging_face(attr: DatasetAttr) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    look_for_hub()
    try:
        return load_dataset(attr.location, name=attr.subset, data_dir=attr.folder, split=attr.split)
    except (DatasetNotFoundError, ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise _not_loaded(attr, "Hugging Face hub", error) from None


def _load_modelscope(attr: DatasetAttr) -> Any:
    try:
        from modelscope import MsDataset
    except ImportError:
        raise ConfigError(f"dataset {attr.name!r}: ModelScope needs a package: pip install modelscope") from None
    if not look_for_other_hub("ms"):
        raise _not_loaded(attr, "ModelScope", TimeoutError("it does not answer"))
    try:
        found = MsDataset.load(attr.location, subset_name=attr.subset, data_dir=attr.folder, split=attr.split)
    except (ValueError, RuntimeError, OSError) as error:
        raise _not_loaded(attr, "ModelScope", error) from None
    return found.to_hf_dataset() if isinstance(found, MsDataset) else found


def _load_openmind(attr: DatasetAttr) -> Any:
    try:
        from openmind import OmDataset
    except ImportError:
        raise ConfigError(f"dataset {attr.name!r}: the Modelers hub needs a package: pip install openmind") from None
    if not look_for_other_hub("om"):
        raise _not_loaded(attr, "Modelers hub", TimeoutError("it does not answer"))
    try:
        return OmDataset.load_dataset(path=attr.location, name=attr.subset, data_dir=attr.folder, split=attr.split)
    except (ValueError, RuntimeError, OSError) as error:
        raise _not_loaded(attr, "Modelers hub", error) from None


def _not_loaded(attr: DatasetAttr, hub: str, error: Exception) -> ConfigError:
    wanted = f"{attr.location} (subset {attr.subset}, split {attr.split})"
    return ConfigError(f"dataset {attr.name!r}: {wanted} cannot be loaded from the {hub}: {first_line(error)}")
