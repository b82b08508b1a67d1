# SPDX-License-Identifier: Apache-2.0
"""Trained weights are written before anything that could fail, and stay when something does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from ...extras.errors import ConfigError, explain, first_line
from ...extras.files import check_safetensors


@contextmanager
def weights_first(model: Any) -> Iterator[None]:
    """Put off what ``model.save_pretrained`` writes before the weights until they are written.

    transformers begins with the configurations, PEFT with a model card.
    """
    if hasattr(model, "peft_config"):
        parts = [(model, "create_or_update_model_card")]
    else:
        parts = [(model.config, "save_pretrained"), (getattr(model, "generation_config", None), "save_pretrained")]
    parts = [(part, name) for part, name in parts if part is not None]
    waiting: list[partial[Any]] = []
    plain = [getattr(part, name) for part, name in parts]
    for (part, name), write in zip(parts, plain, strict=True):
        # Not by setattr, which configurations check.
        vars(part)[name] = lambda *args, write=write, **keys: waiting.append(partial(write, *args, **keys))
    try:
        yield
    finally:
        for part, name in parts:
            del vars(part)[name]
    for write in waiting:
        write()


@contextmanager
def keeping_weights(staging: Path) -> Iterator[None]:
    """Give a hidden folder a lasting name when weights are in it and what should stand beside them fails.

    Raises:
        ConfigError: Something failed, and the weights are in the folder that the line names.
    """
    try:
        yield
    except Exception as error:
        written = [*staging.glob("*.safetensors")]
        if not written or any(map(check_safetensors, written)):  # half of one is worth nothing
            raise
        names = (staging.parent / f"unfinished-model{number or ''}" for number in count())
        kept = next(path for path in names if not path.exists())
        os.replace(staging, kept)
        raise ConfigError(
            f"output_dir: the trained weights are in {kept}, but what belongs beside them could not be saved: "
            f"{explain(error) or first_line(error)}"
        ) from error
