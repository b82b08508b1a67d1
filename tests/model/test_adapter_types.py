# SPDX-License-Identifier: Apache-2.0
"""Every type of adapter that is merged computes what the live PEFT model does; the others are refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import save_file

from llamafactory.export.export import run_export
from llamafactory.extras.errors import ConfigError
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.adapter_config import MERGED
from llamafactory.model.adapters import load_adapter, load_named_adapters
from llamafactory.model.merging import merge

from .peft_adapters import base, save

IDS = torch.tensor([[5, 17, 80, 3, 44, 261, 9, 120]])
PLACES: dict[str, Any] = {"target_modules": ["q_proj", "o_proj"]}
OPTIONS: dict[str, dict[str, Any]] = {
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "TRAINABLE_TOKENS": {"token_indices": [5, 17], "target_modules": ["embed_tokens"]},
    "ADALORA": {"total_step": 10},
    "VBLORA": {"num_vectors": 60, "vector_length": 32},
    "OFT": {"oft_block_size": 16},
    "BOFT": {"boft_block_size": 4},
    "SHIRA": {"r": 4},
    "C3A": {"block_size": 16},
    "FOURIERFT": {"n_frequency": 20},
    "WAVEFT": {"n_frequency": 20},
    "GRALORA": {"r": 4, "gralora_k": 2},
}
VIRTUAL = {"num_virtual_tokens": 4}
ALIVE: dict[str, dict[str, Any]] = {
    "PROMPT_TUNING": VIRTUAL,
    "P_TUNING": VIRTUAL | {"encoder_hidden_size": 32},
    "PREFIX_TUNING": VIRTUAL,
    "BEFT": PLACES,
    "OSF": PLACES,
}
OTHERS: dict[str, dict[str, Any]] = {
    "CPT": {"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
    "CARTRIDGE": VIRTUAL,
    "LILY": PLACES,
    "MULTITASK_PROMPT_TUNING": VIRTUAL,
    "POLY": PLACES,
}


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits[:, -IDS.shape[1] :]  # PEFT gives those of virtual tokens too


def live(model_folder: Path, adapter: Path) -> torch.Tensor:
    return logits(PeftModel.from_pretrained(base(model_folder), adapter))


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", sorted(MERGED))
@pytest.mark.filterwarnings("ignore")
def test_what_is_merged_computes_what_peft_does(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    config = PEFT_TYPE_TO_CONFIG_MAPPING[kind](task_type="CAUSAL_LM", **(PLACES | OPTIONS.get(kind, {})))
    adapter = save(tiny_llama, tmp_path / "adapter", config)
    expected = live(tiny_llama, adapter)
    merged = merge(load_adapter(base(tiny_llama), str(adapter), trainable=False), torch.float32)
    assert_equal(logits(merged), expected)
    assert (expected - logits(base(tiny_llama))).abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("kind", ALIVE)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_merged_is_used_as_it_is(kind: str, tiny_llama: Path, tmp_path: Path, infer_args: Any) -> None:
    config = PEFT_TYPE_TO_CONFIG_MAPPING[kind](task_type="CAUSAL_LM", **ALIVE[kind])
    adapter = save(tiny_llama, tmp_path / "adapter", config)
    args = infer_args(tiny_llama, adapter_name_or_path=str(adapter))
    assert_equal(logits(load_model(load_tokenizer(args.model), args, trainable=False)), live(tiny_llama, adapter))
    merging = f"^{{}}: '.*adapter' is an adapter of type {kind}, which cannot be merged into the weights: .*; chat, api"
    with pytest.raises(ConfigError, match=merging.format("lora_modules")):
        load_named_adapters(base(tiny_llama), {"one": str(adapter)})
    args = infer_args(
        tiny_llama, adapter_name_or_path=str(adapter), template="chatml", export_dir=str(tmp_path / "out")
    )
    with pytest.raises(ConfigError, match=merging.format("adapter_name_or_path")):
        run_export(args)
    other = save(tiny_llama, tmp_path / "other", LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    args = infer_args(tiny_llama, adapter_name_or_path=f"{adapter},{other}")
    with pytest.raises(ConfigError, match=merging.format("adapter_name_or_path")):
        load_model(load_tokenizer(args.model), args, trainable=False)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.filterwarnings("ignore")
def test_what_nothing_can_use_is_refused_by_name(
    kind: str, tiny_llama: Path, tmp_path: Path, train_args: Any, infer_args: Any
) -> None:
    config = PEFT_TYPE_TO_CONFIG_MAPPING[kind](task_type="CAUSAL_LM", **OTHERS[kind])
    adapter = str(save(tiny_llama, tmp_path / "adapter", config))
    for args, trainable in ((infer_args, False), (train_args, True)):
        with pytest.raises(
            ConfigError, match=f"^adapter_name_or_path: .* of type {kind}, which cannot be used"
        ) as caught:
            made = args(tiny_llama, adapter_name_or_path=adapter)
            load_model(load_tokenizer(made.model), made, trainable=trainable)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=f"^lora_modules: .* of type {kind}"):
        load_named_adapters(base(tiny_llama), {"one": adapter})
    with pytest.raises(ConfigError, match=f"^finetuning_type: {kind.lower()} cannot be trained here: "):
        train_args(tiny_llama, finetuning_type=kind.lower())


def test_a_lora_that_acts_only_on_some_tokens_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], alora_invocation_tokens=[3, 4])
    adapter = save(tiny_llama, tmp_path / "adapter", config)
    with pytest.raises(ConfigError, match="LORA with alora_invocation_tokens"):
        load_adapter(base(tiny_llama), str(adapter), trainable=False)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_new_tokens_below_a_lora_on_the_head(tied: bool, make_tiny_model: Any, tmp_path: Path) -> None:
    folder = make_tiny_model(tie_word_embeddings=tied)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        target_modules=["q_proj", "lm_head"],
        trainable_token_indices={"embed_tokens": [5, 17]},
    )
    adapter = save(folder, tmp_path / "adapter", config)
    merged = merge(load_adapter(base(folder), str(adapter), trainable=False), torch.float32)
    assert_equal(logits(merged), live(folder, adapter))
    merged.save_pretrained(tmp_path / "merged")
    assert_equal(logits(base(tmp_path / "merged")), live(folder, adapter))


MOE: dict[str, dict[str, Any]] = {
    "qwen3_moe": {
        "moe_intermediate_size": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "tie_word_embeddings": False,
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False},
}
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]


@pytest.fixture(scope="module", params=MOE)
def mixture(request: Any, make_tiny_model: Any) -> Path:
    return make_tiny_model(request.param, **MOE[request.param])


@pytest.mark.parametrize(
    "config",
    [{"target_parameters": EXPERTS}, {"target_parameters": EXPERTS[1:], "use_rslora": True, "r": 3}],
    ids=["all", "one"],
)
@pytest.mark.filterwarnings("ignore")
def test_adapters_of_fused_experts(config: dict[str, Any], mixture: Path, tmp_path: Path) -> None:
    adapter = save(
        mixture, tmp_path / "adapter", LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], **config)
    )
    merged = merge(load_adapter(base(mixture), str(adapter), trainable=False), torch.float32)
    assert_equal(logits(merged), live(mixture, adapter))


@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
@pytest.mark.filterwarnings("ignore")
def test_an_older_adapter_of_single_experts_keeps_its_scale(rslora: bool, mixture: Path, tmp_path: Path) -> None:
    """The oracle is the equation: each expert's matrices, added into the fused weights by hand."""
    rank, alpha = 4, 8
    single = ["w1", "w3", "w2"] if "mixtral" in str(mixture) else ["gate_proj", "up_proj", "down_proj"]
    inner = "block_sparse_moe" if "mixtral" in str(mixture) else "mlp"
    model, state = base(mixture), {}
    scale = alpha / (math.sqrt(rank) if rslora else rank)
    torch.manual_seed(5)
    for number, layer in enumerate(model.model.layers):
        fused, down = layer.mlp.experts.gate_up_proj.data, layer.mlp.experts.down_proj.data
        for expert in range(len(fused)):
            middle = fused.shape[1] // 2
            for name, weight in zip(
                single, (fused[expert, :middle], fused[expert, middle:], down[expert]), strict=True
            ):
                a, b = 0.1 * torch.randn(rank, weight.shape[1]), 0.1 * torch.randn(weight.shape[0], rank)
                weight += scale * b @ a
                key = f"base_model.model.model.layers.{number}.{inner}.experts.{expert}.{name}"
                state |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
    adapter = tmp_path / "adapter"
    LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, target_modules=single, use_rslora=rslora
    ).save_pretrained(adapter)
    save_file(state, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    merged = merge(load_adapter(base(mixture), str(adapter), trainable=False), torch.float32)
    assert_equal(logits(merged), logits(model))


def test_an_older_adapter_with_alphas_of_single_experts_is_refused(mixture: Path, tmp_path: Path) -> None:
    single = ["w1", "w3"] if "mixtral" in str(mixture) else ["gate_proj", "up_proj"]
    LoraConfig(task_type="CAUSAL_LM", target_modules=single, alpha_pattern={single[0]: 32}).save_pretrained(tmp_path)
    save_file({"x": torch.ones(1)}, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=f"alphas of its own for {single[0]}"):
        load_adapter(base(mixture), str(tmp_path), trainable=False)


@pytest.mark.parametrize("target", ["all", "experts", "projections"])
@pytest.mark.filterwarnings("ignore")
def test_experts_are_trained_and_served(
    target: str, mixture: Path, tmp_path: Path, train_args: Any, infer_args: Any
) -> None:
    names = ["w1,w2,w3"] if "mixtral" in str(mixture) else ["gate_proj,up_proj,down_proj"]
    named = {"all": "all", "experts": "q_proj,experts.gate_up_proj,experts.down_proj", "projections": names[0]}[target]
    args = train_args(mixture, lora_target=named, lora_rank=2)
    tuned = load_model(load_tokenizer(args.model), args)
    trained = {name.split(".layers.")[1].split(".lora_")[0] for name, p in tuned.named_parameters() if p.requires_grad}
    assert {"0.mlp.experts", "0.mlp.experts.base_layer"} <= trained
    assert ("0.self_attn.q_proj" in trained) == (target != "projections")
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    tuned.save_pretrained(tmp_path / "adapter")
    served = infer_args(mixture, adapter_name_or_path=str(tmp_path / "adapter"))
    answers = logits(load_model(load_tokenizer(served.model), served, trainable=False))
    assert_equal(answers, logits(tuned))
    assert_equal(answers, live(mixture, tmp_path / "adapter"))


def test_what_lora_target_leaves_out_of_a_mixture_is_said(
    mixture: Path, tiny_llama: Path, train_args: Any, caplog: pytest.LogCaptureFixture
) -> None:
    args = train_args(mixture, lora_dropout=0.1)
    load_model(load_tokenizer(args.model), args)
    (said,) = [record.getMessage() for record in caplog.records if "of the weights it could" in record.getMessage()]
    assert "experts" in said and "q_proj" not in said
    caplog.clear()
    args = train_args(mixture, lora_rank=2)
    load_model(load_tokenizer(args.model), args)
    assert not [record for record in caplog.records if "of the weights it could" in record.getMessage()]
    # Nor is what is trained whole left out, with the head that is tied to it.
    args = train_args(tiny_llama, additional_target="embed_tokens")
    load_model(load_tokenizer(args.model), args)
    assert not [record for record in caplog.records if "of the weights it could" in record.getMessage()]


def test_half_of_a_fused_pair_is_refused(mixture: Path, train_args: Any) -> None:
    name = "w1" if "mixtral" in str(mixture) else "gate_proj"
    args = train_args(mixture, lora_target=f"q_proj,{name}")
    with pytest.raises(ConfigError, match=f"^lora_target: {name}: .*name both"):
        load_model(load_tokenizer(args.model), args)
    args = train_args(mixture, lora_target="experts.down_proj", lora_dropout=0.1)
    with pytest.raises(ConfigError, match=r"^lora_target: experts\.down_proj are fused experts"):
        load_model(load_tokenizer(args.model), args)


@pytest.mark.parametrize("key", ["lora_alpha", "r", "target_modules"])
def test_a_value_of_another_kind_is_one_line(key: str, tiny_llama: Path, tmp_path: Path) -> None:
    adapter = save(tiny_llama, tmp_path / "adapter", LoraConfig(task_type="CAUSAL_LM", **PLACES))
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: {"x": None}}))
    with pytest.raises(ConfigError) as caught:
        load_adapter(base(tiny_llama), str(adapter), trainable=False)
    assert "\n" not in str(caught.value)
