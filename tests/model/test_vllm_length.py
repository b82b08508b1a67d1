# SPDX-License-Identifier: Apache-2.0
"""vLLM never holds sequences for which it would compute other positions than the model's."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.model.vllm_length import vllm_length

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 256}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
LONGROPE = {**LONG, "original_max_position_embeddings": 512}


def model(folder: Path, rope: dict[str, Any], **keys: Any) -> str:
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 8192}
    (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": rope, **keys}))
    return str(folder)


def length(folder: str, **keys: Any) -> int:
    return vllm_length(get_infer_args({"model_name_or_path": folder, "infer_backend": "vllm", **keys}))


@pytest.mark.parametrize(
    ("rope", "most"), [(DYNAMIC, 256), (LONGROPE, 512), ({**DYNAMIC, "original_max_position_embeddings": None}, 8192)]
)
def test_the_default_is_capped_and_said(
    rope: dict[str, Any], most: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rope = {name: value for name, value in rope.items() if value is not None}
    with caplog.at_level(logging.WARNING):
        assert length(model(tmp_path, rope)) == min(most, 4096)
    assert (f"vllm_maxlen: {most} instead of the default 4096" in caplog.text) == (most < 4096)


def test_the_length_stands_outside_in_phi_3(tmp_path: Path) -> None:
    assert length(model(tmp_path, LONG, model_type="phi3", original_max_position_embeddings=512)) == 512


def test_what_is_asked_for_is_taken_or_refused(tmp_path: Path) -> None:
    folder = model(tmp_path, DYNAMIC)
    assert length(folder, vllm_maxlen=200) == 200
    assert length(folder, vllm_config={"max_model_len": 256}) == 256
    for asked in ({"vllm_maxlen": 257}, {"vllm_config": '{"max_model_len": 1000}'}):
        with pytest.raises(ConfigError, match="trained on 256 positions") as raised:
            length(folder, **asked)
        assert next(iter(asked)) in str(raised.value)


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_what_vllm_computes_right_is_not_capped(kind: str, tmp_path: Path) -> None:
    assert length(model(tmp_path, {**DYNAMIC, "rope_type": kind}), vllm_maxlen=1000) == 1000


def test_rollouts_of_a_model_that_is_being_stretched_are_refused(tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    keys = {
        "model_name_or_path": model(tmp_path, rope, max_position_embeddings=64),
        "stage": "grpo",
        "template": "chatml",
    }
    keys |= {"dataset": "x", "output_dir": str(tmp_path / "out"), "rope_scaling": "yarn", "reward_funcs": "length"}
    with pytest.raises(ConfigError, match="rope_scaling: yarn"):
        vllm_length(get_train_args({**keys, "cutoff_len": 128}))
    assert vllm_length(get_train_args({**keys, "cutoff_len": 64})) == 4096
