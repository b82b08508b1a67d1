# SPDX-License-Identifier: Apache-2.0
"""Advice on sampling that cannot be written again is mended, or refused in one line."""

import pytest
from transformers import GenerationConfig

from llamafactory.extras.errors import ConfigError
from llamafactory.model.generation_config import make_savable


@pytest.mark.parametrize(
    "values",
    [{"temperature": 0.6}, {"top_p": 0.9}, {"top_k": 20}, {"length_penalty": 2.0}, {"early_stopping": True}, {}],
)
def test_advice_is_saved(values, tmp_path):
    config = GenerationConfig(**values)
    config.pad_token_id = 0  # as the trainer changes it
    make_savable(config)
    config.save_pretrained(tmp_path)
    again = GenerationConfig.from_pretrained(tmp_path)
    assert bool(again.do_sample) == bool(values.keys() & {"temperature", "top_p", "top_k"})


def test_what_cannot_be_saved_is_refused():
    config = GenerationConfig()
    config.max_new_tokens = -1
    with pytest.raises(ConfigError, match="max_new_tokens"):
        make_savable(config)
