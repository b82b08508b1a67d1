# SPDX-License-Identifier: Apache-2.0
"""A base's advice on how to generate, made fit to be saved again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..extras.errors import ConfigError, first_line

if TYPE_CHECKING:
    from transformers import GenerationConfig

_SAMPLING = ("temperature", "top_p", "min_p", "top_h", "typical_p", "top_k", "epsilon_cutoff", "eta_cutoff")
_SAID_IN_FULL = ("temperature", "top_k", "top_p")
_BEAMS = ("early_stopping", "length_penalty")


def make_savable(config: GenerationConfig) -> None:
    """Change, in place, what transformers reads from a checkpoint but refuses to write once anything was changed.

    Sampling values without ``do_sample`` were meant for sampling, but beside ``do_sample: false`` or a temperature of 0
    nothing is sampled, so they are left out; values for beams without beams mean nothing. Advice to sample is made
    whole: who reads no ``top_k`` takes 50 in transformers and all tokens in vLLM, whose -1 is 0 in transformers.

    Raises:
        ConfigError: It cannot be written for another reason.
    """
    given = config.to_diff_dict()
    if config.do_sample is False or (config.temperature is not None and config.temperature <= 0):
        config.do_sample = False
        for name in _SAMPLING:
            setattr(config, name, None)
    elif any(given.get(name) is not None for name in _SAMPLING):
        config.do_sample = True
    if config.do_sample:
        config.top_k = 0 if config.top_k == -1 else config.top_k
        for name in _SAID_IN_FULL:
            if getattr(config, name) is None:
                setattr(config, name, config._get_default_generation_params()[name])
    if config.num_beams in (None, 1):
        for name in _BEAMS:
            setattr(config, name, None)
    try:
        config.validate(strict=True)
    except ValueError as error:
        raise ConfigError(
            f"model_name_or_path: its generation_config.json cannot be saved: {first_line(error)}"
        ) from None


def sampling_advice(config: GenerationConfig) -> str:
    """What a reader of the saved file does unless it is told otherwise, in a few words."""
    given = {name: value for name, value in config.to_diff_dict().items() if name in (*_SAMPLING, "repetition_penalty")}
    if not given:
        return "no advice in generation_config.json: each program takes its own default"
    return ", ".join(f"{name} {value:g}" for name, value in given.items())
