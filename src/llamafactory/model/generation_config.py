# SPDX-License-Identifier: Apache-2.0
"""A base's advice on how to generate, made fit to be saved again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..extras.errors import ConfigError, first_line

if TYPE_CHECKING:
    from transformers import GenerationConfig

_SAMPLING = ("temperature", "top_p", "min_p", "top_h", "typical_p", "top_k", "epsilon_cutoff", "eta_cutoff")
_BEAMS = ("early_stopping", "length_penalty")


def make_savable(config: GenerationConfig) -> None:
    """Change, in place, what transformers reads from a checkpoint but refuses to write once anything was changed.

    Sampling values without ``do_sample`` were meant for sampling; values for beams without beams mean nothing.

    Raises:
        ConfigError: It cannot be written for another reason.
    """
    given = config.to_diff_dict()
    if any(given.get(name) is not None for name in _SAMPLING):
        config.do_sample = True
    if config.num_beams in (None, 1):
        for name in _BEAMS:
            setattr(config, name, None)
    try:
        config.validate(strict=True)
    except ValueError as error:
        raise ConfigError(
            f"model_name_or_path: its generation_config.json cannot be saved: {first_line(error)}"
        ) from None
