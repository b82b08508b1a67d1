# SPDX-License-Identifier: Apache-2.0
"""Processes that share layers train as one process does: loss, gradient norm, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.train.tuner import export_model

from .conftest import Keys
from .pairs import judged_set
from .running import log_of, train, train_elsewhere, weights_of
from .test_context_parallel import PACKED, rows_of_cell
from .test_fsdp import assert_same, run

CELLS = [(kind, rows) for kind in ("full", "lora") for rows in ("packed", "alone", "dpo")]


def shared(given: dict[str, Any], ranks: int, size: int, place: Path, **more: Any) -> Path:
    """Train on ranks, so many of which share each layer, with the batch of one process."""
    batch = given["per_device_train_batch_size"] * size
    return run(given | {"tensor_parallel_size": size, "per_device_train_batch_size": batch} | more, ranks, place)


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        pytest.param(*cell, marks=[] if cell == ("lora", "packed") else pytest.mark.slow, id="-".join(cell))
        for cell in CELLS
    ],
)
def test_shared_layers_train_as_whole_ones(
    make_tiny_model: Any, keys: Keys, tmp_path: Path, kind: str, rows: str
) -> None:
    """SGD's weights after a step are the gradients: what is off there by a factor, Adam would hide."""
    model = make_tiny_model("qwen3", num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    given = keys(
        model_name_or_path=str(model), finetuning_type=kind, optim="sgd", learning_rate=0.05, max_grad_norm=0.0
    )
    given |= rows_of_cell(rows, tmp_path)
    one = train(given | {"output_dir": str(tmp_path / "one")})
    assert_same(one, shared(given, 2, 2, tmp_path / "parts"))


MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma3_text": {"sliding_window": 16, "head_dim": 16},
    "qwen2": {},
    "qwen3_moe": MOE,
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phi3": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_family_with_a_plan(make_tiny_model: Any, keys: Keys, tmp_path: Path, kind: str) -> None:
    model = make_tiny_model(kind, **KINDS[kind])
    given = keys(model_name_or_path=str(model), finetuning_type="full", learning_rate=2e-4, max_steps=3, **PACKED)
    assert_same(train(given | {"output_dir": str(tmp_path / "one")}), shared(given, 2, 2, tmp_path / "parts"))


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "copies": ({**PACKED, "gradient_accumulation_steps": 2}, {}, 4),
    "adapters in copies": ({"finetuning_type": "lora", "lora_dropout": 0.0}, {}, 4),
    "kto": ({"stage": "kto"}, {}, 2),
    "pretraining": ({"stage": "pt"}, {}, 2),
    "evaluation": ({"val_size": 5, "do_train": True, "do_eval": True, "compute_accuracy": True}, {}, 2),
    "recomputed": ({"activation_checkpointing": True}, {"parallelism_config": {"tp_size": 2}}, 2),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_what_goes_with_it(keys: Keys, tmp_path: Path, name: str) -> None:
    more, words, ranks = VARIANTS[name]
    given = keys(**{"max_steps": 3, "learning_rate": 2e-4, **more, **(judged_set(tmp_path) if name == "kto" else {})})
    one = train(given | {"output_dir": str(tmp_path / "one")})
    other = shared(given, ranks, 2, tmp_path / "parts", **words)
    assert_same(one, other)
    logs = [[row for row in log_of(run) if "eval_loss" in row or "loss" in row] for run in (one, other)]
    same = ("eval_loss", "accuracy", "total_tokens", "loss/ragged.json", "rewards/chosen", "kl")
    for ours, theirs in zip(*logs, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() & same:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_experts_on_several_processes(make_tiny_model: Any, keys: Keys, tmp_path: Path, kind: str, ranks: int) -> None:
    """Each has rows of its own; of four ranks two hold the same experts."""
    model = make_tiny_model("qwen3_moe", **MOE)
    given = keys(
        model_name_or_path=str(model), finetuning_type=kind, optim="sgd", learning_rate=0.05, max_grad_norm=0.0,
        packing=True, per_device_train_batch_size=4,
        **({"lora_target": "q_proj,v_proj"} if kind == "lora" else {}),
    )  # fmt: skip
    one = train(given | {"output_dir": str(tmp_path / "one")})
    assert_same(one, run(given | {"expert_parallel_size": 2}, ranks, tmp_path / "parts"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_killed_resumed_and_exported(keys: Keys, tmp_path: Path, kind: str) -> None:
    given = keys(finetuning_type=kind, max_steps=8, learning_rate=2e-4, save_strategy="steps", save_steps=3, **PACKED)
    one = train(given | {"output_dir": str(tmp_path / "one")})
    words = {"tensor_parallel_size": 2, "output_dir": str(tmp_path / "parts")}
    killed = train_elsewhere(given | words, ranks=2, KILL_AT="5", KILL_RANK="1")
    assert killed.returncode != 0
    resumed = train_elsewhere(given | words, ranks=2)
    assert resumed.returncode == 0 and "checkpoint-3" in resumed.stderr, resumed.stderr[-2000:]
    assert_same(one, tmp_path / "parts")
    for at in (3, 6):  # a checkpoint in parts is a model, whole
        base = {"model_name_or_path": given["model_name_or_path"], "template": given["template"]}
        folders = [tmp_path / name / f"checkpoint-{at}" for name in ("one", "parts")]
        found = []
        for folder in folders:
            named = {"adapter_name_or_path": str(folder)} if kind == "lora" else {"model_name_or_path": str(folder)}
            export_model(base | named | {"export_dir": str(folder / "exported"), "infer_dtype": "float32"})
            found.append(weights_of(folder / "exported"))
        assert found[0].keys() == found[1].keys()
        for name, weight in found[0].items():
            torch.testing.assert_close(found[1][name], weight, rtol=1e-5, atol=1e-6, msg=name)


REFUSED = {
    "fsdp": {"fsdp": "full_shard"},
    "deepspeed": {"deepspeed": {"zero_optimization": {"stage": 2}}},
    "stage": {"stage": "rm"},
    "context_parallel_size": {"context_parallel_size": 2},
    "quantization_bit": {"quantization_bit": 4},
    "finetuning_type": {"finetuning_type": "adalora"},
    "expert_parallel_size": {"expert_parallel_size": 2},
}


@pytest.mark.parametrize("word", REFUSED)
def test_refused_beside_it(keys: Keys, word: str) -> None:
    with pytest.raises(ConfigError, match=f"tensor_parallel_size.*{word}|{word}.*tensor_parallel_size") as caught:
        get_train_args(keys(tensor_parallel_size=2, **REFUSED[word]))
    assert "\n" not in str(caught.value)
