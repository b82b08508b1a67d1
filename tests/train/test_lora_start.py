# SPDX-License-Identifier: Apache-2.0
"""Where a LoRA begins: what PEFT and the papers say it is, and nothing that the model computes changes by it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, TrainerCallback

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.adapter_config import read_adapter_values

from .conftest import Keys
from .running import assert_bit_equal, curve, first_half, train, weights_of

QUICK = {"max_steps": 1, "max_samples": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-9}
LAYER = "base_model.model.model.layers.1.mlp.up_proj"


class _First(TrainerCallback):
    """Keeps a model as it was before its first step, and the batch of that step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        layer = model.get_submodule(LAYER)
        self.a, self.b = (part["default"].weight.detach().clone() for part in (layer.lora_A, layer.lora_B))
        self.base, self.scale = layer.get_base_layer().weight.detach().clone(), layer.scaling["default"]
        self.batch = next(iter(kwargs["train_dataloader"]))
        with torch.no_grad():
            self.scores = model(**self.batch, score=True).log_probs


def begun(keys: Keys, **more: Any) -> _First:
    first = _First()
    train(keys(**QUICK, **more), [first])
    return first


@pytest.fixture
def plain(tiny_llama: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_llama)


def weight_of(model: Any) -> torch.Tensor:
    return model.get_submodule(LAYER.removeprefix("base_model.model.")).weight.detach()


def inputs_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the layer reads of each row alone, rows of all tokens end to end."""
    seen: list[torch.Tensor] = []
    layer = model.get_submodule(LAYER.removeprefix("base_model.model."))
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    ends = batch["cu_seqlens"].tolist()
    with torch.no_grad():
        for start, end in pairwise(ends):
            model(input_ids=batch["input_ids"][:, start:end])
    handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("init", ["olora", "corda", "lora_ga", "eva", "gaussian", "orthogonal"])
def test_a_model_begins_as_its_base(init: str, keys: Keys, plain: Any) -> None:
    start, expected = begun(keys, lora_init=init), begun(keys, overwrite_output_dir=True)
    assert torch.allclose(start.scores, expected.scores, atol=2e-5)
    assert torch.allclose(start.base + start.scale * start.b @ start.a, weight_of(plain), atol=1e-6)
    changes = init in ("olora", "corda", "lora_ga")
    assert (start.b.abs().max() > 1e-3) == (changes or init == "orthogonal")
    assert torch.equal(start.base, weight_of(plain)) != changes


def test_olora_is_pefts(keys: Keys, plain: Any) -> None:
    start = begun(keys, lora_init="olora")
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["up_proj"], init_lora_weights="olora")
    layer = get_peft_model(plain, config).get_submodule(LAYER)
    assert torch.equal(start.a, layer.lora_A["default"].weight)
    assert torch.equal(start.b, layer.lora_B["default"].weight)


def test_eva_begins_with_the_directions_of_its_inputs(keys: Keys, plain: Any) -> None:
    start = begun(keys, lora_init="eva")
    trained = start.batch["labels"][0] != -100
    read = inputs_of(plain, start.batch)[trained].double()
    directions = torch.linalg.svd(read - read.mean(0)).Vh[:8].float()
    overlap = torch.linalg.svdvals(torch.nn.functional.normalize(start.a, dim=-1) @ directions.T)
    assert overlap[:6].min() > 0.95, "PEFT's incremental SVD is an approximation"
    assert not start.b.any()


def test_eva_ends_where_its_batches_are_too_small_and_takes_the_head(keys: Keys) -> None:
    """PEFT goes over batches with fewer trained tokens than directions for ever."""
    small = {"lora_init": "eva", "lora_rank": 48, "per_device_train_batch_size": 1}
    with pytest.raises(ConfigError, match=r"^lora_init: eva: none of the first 64 batches has 48 trained tokens"):
        train(keys(**QUICK | small))
    run = train(keys(**QUICK, lora_init="eva", lora_target="lm_head", overwrite_output_dir=True))
    (first,) = (weight for name, weight in weights_of(run).items() if "lora_A" in name)
    torch.testing.assert_close(first @ first.T, torch.eye(8), rtol=0, atol=1e-4)  # directions, not what it began with


@pytest.mark.parametrize("kind", [{}, pytest.param({"bf16": True}, marks=pytest.mark.slow)], ids=str)
def test_eva_moves_ranks_and_a_killed_run_goes_on_with_them(
    kind: dict[str, Any], keys: Keys, tmp_path: Path, tiny_llama: Path
) -> None:
    """The sum of all ranks stays; trained, saved, resumed, loaded by PEFT and served with the ranks that there are."""
    steps = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-2}
    moved = {"lora_init": "eva", "lora_rank": 4, "peft_config": {"eva_config": {"rho": 2.0}}}
    settings = keys(**steps, **moved, **kind)
    whole = train(settings)
    losses = [loss for _, loss, _ in curve(whole)]
    assert losses[-1] < losses[0]
    weights = weights_of(whole)
    ranks = [len(weight) for name, weight in weights.items() if "lora_A" in name]
    assert sum(ranks) == 4 * 14 and max(ranks) > 4 > min(ranks)
    assert all(weight.dtype == torch.float32 and weight.any() for weight in weights.values())  # B was trained too
    half = tmp_path / "half"
    first_half(whole, half, 6)
    train(settings | {"output_dir": str(half)})
    assert_bit_equal(whole, half)
    ids = torch.tensor([[5, 17, 80, 3, 44, 261, 9, 120]])
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), whole).eval()
    args = get_infer_args({
        "model_name_or_path": str(tiny_llama), "adapter_name_or_path": str(whole), "infer_dtype": "float32",
    })  # fmt: skip
    served = load_model(load_tokenizer(args.model), args, trainable=False)
    with torch.no_grad():
        torch.testing.assert_close(served(input_ids=ids).logits, model(input_ids=ids).logits, rtol=0, atol=1e-5)


def test_corda_begins_with_what_matters_most_to_the_covariance(keys: Keys, plain: Any) -> None:
    """The closed form of the paper: the first parts of W C, with C the covariance of the inputs."""
    start = begun(keys, lora_init="corda")
    read = inputs_of(plain, start.batch)
    read = read / read.max().abs()
    covariance = (read.T @ read).double()
    u = torch.linalg.svd(weight_of(plain).double() @ covariance).U[:, :8].float()
    overlap = torch.linalg.svdvals(torch.nn.functional.normalize(start.b, dim=0).T @ u)
    assert overlap.min() > 0.98


def test_lora_ga_begins_in_the_span_of_the_gradient(keys: Keys, plain: Any) -> None:
    start = begun(keys, lora_init="lora_ga")
    layer = plain.get_submodule(LAYER.removeprefix("base_model.model."))
    layer.weight.requires_grad_(True)
    ends = start.batch["cu_seqlens"].tolist()
    total = (start.batch["labels"] != -100).sum()
    for begin, end in pairwise(ends):
        ids, labels = (start.batch[name][0, begin:end] for name in ("input_ids", "labels"))
        scores = plain(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        (torch.nn.functional.nll_loss(scores, labels[1:], ignore_index=-100, reduction="sum") / total).backward()
    found = torch.linalg.svd(layer.weight.grad)
    inside = torch.linalg.svdvals(torch.nn.functional.normalize(start.a, dim=-1) @ found.Vh[:8].T)
    assert inside.min() > 0.95, "A spans the first r directions (ArB2r)"


def test_a_checkpoint_of_a_changed_base_does_not_pass_for_a_lora(keys: Keys) -> None:
    run = train(keys(**QUICK | {"save_strategy": "steps", "save_steps": 1}, lora_init="corda"))
    assert read_adapter_values(run)["init_lora_weights"] is True and read_adapter_values(run)["r"] == 16
    with pytest.raises(
        ConfigError, match="is an adapter of a base that corda changed, which nobody has: go on with its"
    ):
        read_adapter_values(run / "checkpoint-1")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"lora_init": "olora", "use_dora": True}, "lora_init: olora cannot be combined with use_dora"),
        ({"lora_init": "eva", "pissa_init": True}, "lora_init: eva beside pissa_init: choose one start"),
        ({"lora_init": "loft"}, "lora_init: expected one of default, gaussian"),
        ({"lora_init": "orthogonal", "lora_rank": 3}, "lora_init: orthogonal needs an even lora_rank, not 3"),
        (
            {"lora_init": "corda", "stage": "dpo"},
            "lora_init: corda looks at the batches of stage pt or sft, not of dpo",
        ),
        ({"lora_init": "eva", "streaming": True, "max_steps": 4}, "lora_init: eva looks at batches before the first"),
        ({"lora_init": "eva", "peft_config": {"eva_config": {"rho": 0.5}}}, "eva_config: rho: 0.5, expected 1 (ranks"),
        (
            {"lora_init": "eva", "use_muon": True, "peft_config": {"eva_config": {"rho": 2.0}}},
            "peft_config: eva_config: rho: 2.0 gives layers other ranks, which the optimizer muon is not told of",
        ),
        (
            {"lora_init": "eva", "peft_config": {"eva_config": {"rh": 1}}},
            "peft_config: eva_config has no field rh; it has",
        ),
        (
            {"lora_init": "corda", "peft_config": {"corda_config": {"cache_file": "x"}}},
            "peft_config: corda_config: cache",
        ),
        (
            {"lora_init": "corda", "peft_config": {"rank_pattern": {"q_proj": 2}}},
            "peft_config: rank_pattern: lora_init: corda begins every layer with lora_rank",
        ),
        ({"peft_config": {"eva_config": {}}}, "peft_config: eva_config: lora_init: default does not read it"),
        ({"peft_config": {"r": 4}}, "peft_config: r: leave it out, the key lora_rank says it"),
        ({"peft_config": {"layers": [1]}}, "peft_config: lora has no field layers; did you mean layers_pattern?"),
    ],
    ids=str,
)
def test_starts_that_cannot_be_are_refused(more: dict[str, Any], line: str, keys: Keys) -> None:
    with pytest.raises(ConfigError) as caught:
        get_train_args(keys(**more))
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_lora_on_some_layers_and_by_expression(keys: Keys, plain: Any) -> None:
    from llamafactory.model import load_model, load_tokenizer

    for fields in (
        {"layers_to_transform": [1]},
        {"target_modules": r".*\.1\..*up_proj"},
        {"rank_pattern": {"up_proj": 2}},
    ):
        args = get_train_args(keys(peft_config=fields))
        model = load_model(load_tokenizer(args.model), args)
        names = {name for name, weight in model.named_parameters() if weight.requires_grad}
        assert "rank_pattern" in fields or all(".layers.1." in name for name in names)
        assert model.get_submodule(LAYER).r["default"] == (2 if "rank_pattern" in fields else 8)
