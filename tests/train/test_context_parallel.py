# SPDX-License-Identifier: Apache-2.0
"""Processes that share each row train as one process does: loss, gradient norm, every gradient, weights."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.model.context_check import check_model

from .conftest import Keys
from .pairs import judged_set, pair_set
from .running import curve, log_of, train, train_elsewhere
from .test_fsdp import assert_same, run

ROOT = Path(__file__).parents[2]
PACKED = {"packing": True, "per_device_train_batch_size": 2}
ALONE = {"packing": False, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
CELLS = [
    (size, kind, rows) for size in (2, 4) for kind in ("full", "lora") for rows in ("packed", "alone", "dpo")
]  # fmt: skip


def rows_of_cell(name: str, folder: Path) -> dict[str, Any]:
    if name == "dpo":
        return {"stage": "dpo", "share_prompt": True, **pair_set(folder)}
    return PACKED if name == "packed" else ALONE


def shared(given: dict[str, Any], ranks: int, size: int, place: Path, **more: Any) -> Path:
    """Train on ranks, so many of which share each row, with the batch of one process."""
    batch = given["per_device_train_batch_size"] * size
    return run(given | {"context_parallel_size": size, "per_device_train_batch_size": batch} | more, ranks, place)


@pytest.mark.parametrize(
    ("size", "kind", "rows"),
    [
        pytest.param(
            *cell, marks=[] if cell in ((2, "full", "packed"),) else pytest.mark.slow, id="-".join(map(str, cell))
        )
        for cell in CELLS
    ],
)
def test_shared_rows_train_as_whole_ones(
    make_tiny_model: Any, keys: Keys, tmp_path: Path, size: int, kind: str, rows: str
) -> None:
    """SGD's weights after a step are the gradients: what is off there by a factor, Adam would hide."""
    model = make_tiny_model("llama", num_attention_heads=8, num_key_value_heads=2, head_dim=8)
    given = keys(
        model_name_or_path=str(model), finetuning_type=kind, optim="sgd", learning_rate=0.05, max_grad_norm=0.0
    )
    given |= rows_of_cell(rows, tmp_path)
    one = train(given | {"output_dir": str(tmp_path / "one")})
    assert_same(one, shared(given, size, size, tmp_path / "parts"))


KINDS: dict[str, dict[str, Any]] = {
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},  # sinks, windows, experts
    "gemma2": {"sliding_window": 16},  # soft caps
    "qwen3": {"num_attention_heads": 4, "num_key_value_heads": 1},  # keys are repeated
    "deepseek_v3": {
        "num_key_value_heads": 4, "head_dim": 8, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8, "v_head_dim": 12, "n_routed_experts": 4, "n_group": 2, "topk_group": 1,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
    },  # keys and values of other widths
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_attention(make_tiny_model: Any, keys: Keys, tmp_path: Path, kind: str) -> None:
    model = make_tiny_model(kind, **KINDS[kind])
    given = keys(model_name_or_path=str(model), finetuning_type="full", learning_rate=2e-4, max_steps=3, **PACKED)
    assert_same(train(given | {"output_dir": str(tmp_path / "one")}), shared(given, 2, 2, tmp_path / "parts"))


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "shards of weights": ({"finetuning_type": "full"}, {"fsdp": "full_shard"}, 4),
    "copies": ({**PACKED, "gradient_accumulation_steps": 2}, {}, 4),
    "kto": ({"stage": "kto"}, {}, 2),
    "asft": ({"use_asft_loss": True}, {}, 2),
    "evaluation": (
        {"val_size": 5, "do_train": True, "do_eval": True, "predict_with_generate": True, "max_new_tokens": 4}, {}, 2
    ),
    "recomputed": ({"activation_checkpointing": True}, {"parallelism_config": {"cp_size": 2}}, 2),
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
    same = ("eval_loss", "eval_bleu-4", "total_tokens", "loss/ragged.json", "rewards/chosen", "logps/chosen", "kl")
    for ours, theirs in zip(*logs, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() & same:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-5), key


@pytest.mark.slow
def test_going_on_with_other_shares(keys: Keys, tmp_path: Path) -> None:
    """Two share each row, are killed; one process, killed; four in pairs: the run of one process."""
    given = keys(**{"max_steps": 10, "learning_rate": 2e-4, "save_strategy": "steps", "save_steps": 2, **PACKED})
    one = train(given | {"output_dir": str(tmp_path / "one")})
    for ranks, size, kill in ((2, 2, "5"), (1, 1, "7")):
        batch = given["per_device_train_batch_size"] * size // ranks
        more = {"context_parallel_size": size, "per_device_train_batch_size": batch}
        result = train_elsewhere(
            given | more | {"output_dir": str(tmp_path / "parts")}, ranks=ranks, KILL_AT=kill, KILL_RANK=str(ranks - 1)
        )
        assert result.returncode
    assert_same(one, shared(given, 4, 2, tmp_path / "parts"))


REFUSED = [
    ({"stage": "rm"}, "context_parallel_size: not in stage rm; only in pt, sft, dpo, kto"),
    ({"finetuning_type": "prompt_tuning"}, "context_parallel_size: not with finetuning_type prompt_tuning; use full"),
    ({"deepspeed": {"zero_optimization": {"stage": 2}}}, "context_parallel_size: not with deepspeed"),
    ({"padding_free": False, "packing": False}, "context_parallel_size: not with padding_free: false"),
    ({"streaming": True, "max_steps": 2}, "context_parallel_size: not with streaming"),
    ({"shift_attn": True}, "context_parallel_size: not with shift_attn"),
    ({"moe_aux_loss_coef": 0.1}, "context_parallel_size: not with moe_aux_loss_coef"),
    ({"neftune_noise_alpha": 5.0}, "context_parallel_size: not with neftune_noise_alpha"),
    ({"context_parallel_size": 0}, "context_parallel_size: expected 1 or more, got 0"),
    (
        {"context_parallel_size": 4, "parallelism_config": {"cp_size": 2}},
        "parallelism_config: cp_size: 2 and context_parallel_size: 4 contradict each other",
    ),
]


@pytest.mark.parametrize(("more", "line"), REFUSED, ids=str)
def test_what_cannot_be_is_one_line(more: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_train_args({"model_name_or_path": "org/tiny", "dataset": "identity", "context_parallel_size": 2, **more})
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "config", "more", "line"),
    [
        (
            "llama",
            {"hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3},
            {},
            "9 attention heads (3 of keys); it may be 1, 3, 9",
        ),
        ("lfm2", {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2}, {}, "has layers of type conv"),
        ("mamba", {}, {}, "MambaForCausalLM"),
        ("qwen3", {}, {"flash_attn": "sdpa"}, "flash_attn: sdpa has no exchange"),
        ("qwen3_moe", {"output_router_logits": True}, {}, "the balance of its experts"),
        ("qwen2_vl", {}, {}, "it takes media"),
    ],
)
def test_models_that_cannot_be_shared(
    tmp_path: Path, kind: str, config: dict[str, Any], more: dict[str, Any], line: str
) -> None:
    """Their configuration alone is read: there are no weights here."""
    from transformers import AutoConfig

    AutoConfig.for_model(kind, **config).save_pretrained(tmp_path)
    args = get_train_args(
        {"model_name_or_path": str(tmp_path), "dataset": "identity", "context_parallel_size": 2, **more}
    )
    with pytest.raises(ConfigError, match=re.escape(line)):
        check_model(args)


def test_processes_that_do_not_divide(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"^context_parallel_size: 2 processes share each row, and 1 cannot be put"):
        train(keys(context_parallel_size=2))


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    file = ROOT / "examples" / "extras" / "context_parallel" / "smollm2_lora_sft.yaml"
    few = ["max_steps=2", "max_samples=8", "cutoff_len=256", "logging_steps=1", "gradient_accumulation_steps=1"]
    words = [sys.executable, "-m", "llamafactory", "train", str(file), *few, f"output_dir={tmp_path / 'run'}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "3"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(curve(tmp_path / "run")) == 2
