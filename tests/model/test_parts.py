# SPDX-License-Identifier: Apache-2.0
"""Each weight of a model that takes media belongs to one part: tower, projector or language model."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from media_models import config_of
from transformers import AutoConfig, AutoModelForMultimodalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from llamafactory.model.families import parts
from llamafactory.model.towers import by_part, outside_language, part_patterns

# Configurations whose defaults make no model: what they need beside.
GIVEN: dict[str, dict[str, Any]] = {
    "aya_vision": {"vision_config": {"model_type": "siglip_vision_model"}},
    "gemma4": {"vision_config": {}, "audio_config": {}},
}
# Their towers are of the package timm, or a default configuration of theirs is refused by transformers itself.
NOT_MADE = {"gemma3n", "deepseek_vl_hybrid"}


def _empty(family: str) -> Any:
    config = config_of(family) or AutoConfig.for_model(family, **GIVEN.get(family, {}))
    with torch.device("meta"):
        return AutoModelForMultimodalLM.from_config(config)


def _check(model: Any) -> None:
    patterns = {part: re.compile(pattern) for part, pattern in part_patterns(model).items()}
    for name, _ in model.named_parameters():
        assert sum(bool(pattern.fullmatch(name)) for pattern in patterns.values()) == 1, name
    found = by_part(model)
    assert all(found[part] for part in parts.PARTS), {part: len(names) for part, names in found.items()}
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    if decoder is not getattr(model, model.base_model_prefix):  # else towers are within what is called the decoder
        inside = {id(one) for module in (decoder, head) if module is not None for one in module.parameters()}
        assert {name for name, one in model.named_parameters() if id(one) in inside} == set(found["language model"])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "gemma3", "llava_next", "idefics3", "qwen2_audio"])
def test_every_weight_is_in_one_part(family: str) -> None:
    _check(_empty(family))


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(parts._LAYOUTS) - NOT_MADE))
def test_every_weight_of_every_known_family_is_in_one_part(family: str) -> None:
    assert family in CONFIG_MAPPING_NAMES
    _check(_empty(family))


def test_of_a_family_without_a_layout_the_language_model_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _empty("llava")
    known = outside_language(model)
    monkeypatch.setattr(parts, "_LAYOUTS", {})
    unknown = outside_language(model)
    names = [name for name, _ in model.named_parameters()]
    assert known is not None and unknown is not None and known != unknown
    assert [bool(re.fullmatch(known, n)) for n in names] == [bool(re.fullmatch(unknown, n)) for n in names]
