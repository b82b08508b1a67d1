# SPDX-License-Identifier: Apache-2.0
"""Which classes a run knows, in which order: those of the model it goes on with, those asked for, those of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...data.streaming.rows import StreamRows
from ...extras.errors import ConfigError, first_names, short
from ...extras.logging import get_logger
from ...hparams import split_list
from ...model.heads import Head, is_named, stored_head

if TYPE_CHECKING:
    from ...data.loader import DatasetModule
    from ...hparams import TrainArgs

logger = get_logger(__name__)


def find_head(args: TrainArgs, dataset: DatasetModule | None) -> Head:
    """Return the head of a run.

    Args:
        args: The whole resolved configuration.
        dataset: None = it is not known yet, and two classes stand for what it will hold.

    Raises:
        ConfigError: The rows hold classes that the model or ``class_names`` does not name, or only one.
    """
    problem = args.data.problem_type or "single_label_classification"
    stored = stored_head(args)
    if problem == "regression":
        return Head("scores", _numbers(args, dataset), problem)
    known = split_list(args.finetuning.class_names)
    if not known and stored is not None and is_named(stored):
        known = list(stored.labels)
    found = [] if dataset is None else _classes(dataset)
    if not known and isinstance(getattr(dataset, "train", None), StreamRows):
        raise ConfigError("class_names: streamed rows are not seen before training; give the classes")
    known = known or found or ["0", "1"]
    for name in found:
        if name not in known:
            raise ConfigError(f"class_names: the rows have a class {name!r}, which is none of {first_names(known)}")
    if len(known) < 2 and problem == "single_label_classification":
        raise ConfigError(f"class_names: all rows are of one class, {known[0]!r}; there is nothing to tell apart")
    if dataset is not None:
        logger.info_rank0("%d classes: %s", len(known), first_names(known))
    return Head("scores", tuple(known), problem)


def _classes(dataset: DatasetModule) -> list[str]:
    """The classes of all rows, sorted; by their value if all are whole numbers."""
    import pyarrow.compute as pc

    found: set[str] = set()
    for rows in _sets(dataset):
        names = rows.with_format("arrow").data.column("classes")
        for chunk in names.chunks:
            found.update(pc.unique(pc.list_flatten(pc.list_flatten(chunk))).to_pylist())
    whole = all(name.lstrip("-").isdigit() for name in found)
    return sorted(found, key=lambda name: (int(name), name) if whole else (0, name))


def _numbers(args: TrainArgs, dataset: DatasetModule | None) -> tuple[str, ...]:
    """Names of the numbers that rows hold; none for a single one without a name."""
    import pyarrow.compute as pc

    names = tuple(split_list(args.finetuning.class_names))
    counts: set[int] = set()
    for rows in [] if dataset is None else _sets(dataset):
        for chunk in rows.with_format("arrow").data.column("targets").chunks:
            counts.update(pc.unique(pc.list_value_length(pc.list_flatten(chunk))).to_pylist())
    if len(counts) > 1:
        raise ConfigError(f"problem_type: regression: rows hold different counts of numbers: {short(sorted(counts))}")
    count = counts.pop() if counts else max(1, len(names))
    if names and len(names) != count:
        raise ConfigError(f"class_names: {len(names)} names for the {count} numbers of a row")
    return names or (tuple(map(str, range(count))) if count > 1 else ())


def _sets(dataset: DatasetModule) -> list[Any]:
    train = [] if dataset.train is None or isinstance(dataset.train, StreamRows) else [dataset.train]
    return [*train, *dataset.eval.values()]
