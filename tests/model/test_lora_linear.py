# SPDX-License-Identifier: Apache-2.0
"""The LoRA sum with one rounding: equal to PEFT in float32, nearer to float32 than PEFT in bfloat16."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamafactory.model import lora_linear
from llamafactory.model.lora_linear import ExactLinear, use_exact_add


class Layers(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first = nn.Linear(48, 40, bias=bias)
        self.second = nn.Linear(40, 24, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def pair(bias: bool = True, **keys):
    """The same layers twice: through PEFT and through the exact sum."""
    torch.manual_seed(0)
    peft = get_peft_model(Layers(bias), LoraConfig(target_modules=["first", "second"], r=4, lora_alpha=6, **keys))
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.2)
    exact = copy.deepcopy(peft)
    assert use_exact_add(exact) == 2
    return peft, exact


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5, 48), (2, 7, 48)])
def test_forward_and_gradients_equal_peft_in_float32(bias, shape):
    peft, exact = pair(bias)
    x = torch.randn(shape)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [model(each) for model, each in zip((peft, exact), inputs, strict=True)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-5)
    for out in outputs:
        (out**2).sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-4, atol=1e-4)
    for (name, mine), theirs in zip(exact.named_parameters(), peft.parameters(), strict=True):
        assert (mine.grad is None) == ("lora_" not in name) == (theirs.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_dropout_draws_as_peft_does():
    peft, exact = pair(lora_dropout=0.5)
    x = torch.randn(6, 48)
    results = []
    for model in (peft, exact):
        torch.manual_seed(3)
        inner = x.clone().requires_grad_()
        out = model(inner)
        out.sum().backward()
        results.append((out, inner.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(exact.eval()(x), peft.eval()(x), rtol=0, atol=1e-5)


def test_double_precision_gradients():
    torch.manual_seed(0)
    layer = pair()[1].base_model.model.first.double()
    x = torch.randn(3, 48, dtype=torch.float64, requires_grad=True)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert torch.autograd.gradcheck(lambda x, a, b: layer(x), (x, down, up))


def test_special_cases_are_left_to_peft():
    peft, exact = pair()
    x = torch.randn(4, 48)
    with peft.disable_adapter(), exact.disable_adapter():
        assert torch.equal(exact(x), peft(x))
    for model in (peft, exact):
        model.add_adapter("other", LoraConfig(target_modules=["first"], r=2))
        model.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(exact(x), peft(x), rtol=0, atol=1e-5)
    before = exact(x)
    exact.merge_adapter()
    torch.testing.assert_close(exact(x), before, rtol=0, atol=1e-5)

    torch.manual_seed(0)
    dora = get_peft_model(Layers(True), LoraConfig(target_modules=["first"], use_dora=True))
    expected = dora(x)
    use_exact_add(dora)
    assert torch.equal(dora(x), expected)
    merged = pair()[1].merge_and_unload()
    assert not any(isinstance(module, ExactLinear) for module in merged.modules())


def test_a_small_update_survives_bfloat16():
    """y is about 100, where bfloat16 has steps of 0.5: added last, an update of 0.2 is mostly lost."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 512, bias=False)
    nn.init.normal_(layer.weight, std=12.0)
    reference = get_peft_model(nn.Sequential(layer), LoraConfig(target_modules=["0"], r=4, lora_alpha=4))
    nn.init.normal_(reference.base_model.model[0].lora_B["default"].weight, std=0.1)
    x = torch.randn(32, 64).bfloat16()
    reference.base_model.model[0].base_layer.bfloat16()
    peft, exact = reference, copy.deepcopy(reference)
    use_exact_add(exact)
    module = reference.base_model.model[0]
    delta = x.float() @ module.get_delta_weight("default").float().T
    true = x.double() @ module.base_layer.weight.double().T + delta
    error = [(model(x).double() - true).pow(2).mean().sqrt() for model in (exact, peft)]
    nearest = (true.bfloat16().double() - true).pow(2).mean().sqrt()  # the best bfloat16 can do
    assert error[0] < 1.05 * nearest < error[1]


def trajectory(model, batch: dict, exact: bool, steps: int = 15) -> torch.Tensor:
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear"))
    if exact:
        assert use_exact_add(model) == 7 * 6
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(**batch).logits[0, :-1].float(), batch["input_ids"][0, 1:])
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.tensor(losses)


@pytest.mark.slow
def test_training_follows_the_float32_loss(smollm2):
    """bfloat16 base, float32 LoRA weights, the first 6 layers of SmolLM2, 15 steps of AdamW.

    The loss stays within 0.03 of the float32 run (which falls by 1.0), at least 4 times nearer than PEFT's order.
    """
    text = "My name is Ada. I was built in a small workshop by the sea, and I like rivers, bridges and long walks. " * 3
    batch = {"input_ids": AutoTokenizer.from_pretrained(smollm2)(text, return_tensors="pt")["input_ids"]}

    def run(dtype: torch.dtype, exact: bool) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(smollm2, num_hidden_layers=6, dtype=dtype)
        return trajectory(model, batch, exact)

    reference = run(torch.float32, exact=False)
    ours, peft = ((run(torch.bfloat16, exact=exact) - reference).abs() for exact in (True, False))
    assert ours.max() < 0.03, ours
    assert 4 * ours.mean() < peft.mean(), (ours, peft)


class Gated(nn.Module):
    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(48, 40), nn.Linear(48, 24)
        self.apart = apart

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate_proj(x).tanh().sum() * self.up_proj(x * 2 if self.apart else x)


@pytest.mark.parametrize("apart", [False, True])
def test_layers_that_share_their_input_are_computed_together(apart, monkeypatch):
    torch.manual_seed(0)
    targets = ["gate_proj", "up_proj"]
    config = LoraConfig(target_modules=targets, r=4, lora_alpha=6, rank_pattern={"up_proj": 2})
    peft = get_peft_model(Gated(apart), config)
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.2)
    exact = copy.deepcopy(peft)
    use_exact_add(exact)
    exact = copy.deepcopy(exact)  # the copy's layers belong together, not to those of the first
    products = []
    original = lora_linear._low_rank_sums
    monkeypatch.setattr(lora_linear, "_low_rank_sums", lambda *a: products.append(len(a[2])) or original(*a))
    for _ in range(2):
        inputs = [torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(3)).requires_grad_() for _ in range(2)]
        outputs = [model(each) for model, each in zip((peft, exact), inputs, strict=True)]
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
        for out in outputs:
            (out**2).sum().backward()
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-4, atol=1e-4)
    for (name, mine), theirs in zip(exact.named_parameters(), peft.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4, msg=name)
    assert products == ([2, 1, 1, 1] if apart else [2, 2])
