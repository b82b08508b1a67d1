# SPDX-License-Identifier: Apache-2.0
"""``score=True`` gives what the model's own logits give, for every kind of head and wrapper."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from llamafactory.train.token_scores import _find_transform, attach, trained_positions

FAMILIES: dict[str, tuple[dict[str, Any], float, float | None]] = {
    # model type -> further config, scale and softcap we expect to be found
    "llama": ({}, 1.0, None),
    "qwen3": ({}, 1.0, None),
    "gemma2": ({}, 1.0, 30.0),
    "cohere": ({"logit_scale": 0.0625}, 0.0625, None),
    "granite": ({"logits_scaling": 4.0}, 0.25, None),
    "hyperclovax": ({"logits_scaling": 4.0}, 4.0, None),
    "nanochat": ({}, 1.0, 15.0),
    "phi": ({}, 1.0, None),
}


def _tiny(kind: str = "llama", **config: Any) -> Any:
    torch.manual_seed(0)
    shape = {
        "vocab_size": 67, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(shape | config)), dtype=torch.float32).eval()


def _batch() -> dict[str, Tensor]:
    ids = torch.randint(3, 67, (3, 12), generator=torch.Generator().manual_seed(3))
    labels = ids.clone()
    labels[0, :5], labels[1, 8:], labels[2, 3:7] = -100, -100, -100
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _reference(model: Any, batch: dict[str, Tensor]) -> Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    wanted = batch["labels"][:, 1:]
    log_p = torch.log_softmax(logits.float(), -1)
    return log_p[wanted != -100].gather(-1, wanted[wanted != -100].unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("kind", FAMILIES)
def test_equals_the_models_own_logits(kind: str) -> None:
    config, scale, softcap = FAMILIES[kind]
    model, batch = _tiny(kind, **config), _batch()
    expected = _reference(model, batch)
    transform = _find_transform(model, model.forward)
    assert transform is not None and transform.scale == pytest.approx(scale) and transform.softcap == softcap
    scores = attach(model)(**batch, score=True)
    torch.testing.assert_close(scores.log_probs, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(scores.targets, batch["labels"].flatten()[trained_positions(batch["labels"])])


def _lora(model: Any, **options: Any) -> Any:
    torch.manual_seed(1)
    config = {"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": False}
    return peft.get_peft_model(model, peft.LoraConfig(**{**config, **options})).eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_modules": ["q_proj", "lm_head"]},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": {"embed_tokens": [5, 6], "lm_head": [5, 6]}},
        {"use_dora": True},
    ],
    ids=["plain", "lora-on-head", "saved-head", "token-rows", "dora"],
)
def test_peft_models_score_and_learn_like_their_own_logits(options: dict[str, Any]) -> None:
    model, batch = _lora(_tiny(tie_word_embeddings=False), **options), _batch()
    _reference(model, batch).sum().backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    scores = attach(model)(**batch, score=True)
    scores.log_probs.sum().backward()
    assert any("lora" in name for name in expected)
    got = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("tied", [True, False])
def test_full_training_gradients(tied: bool) -> None:
    model, batch = _tiny(tie_word_embeddings=tied), _batch()
    _reference(model, batch).sum().backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    attach(model)(**batch, score=True).log_probs.sum().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_head_with_a_hook_is_obeyed() -> None:
    """Such a head may do anything: the shortcut through its weight must not be taken."""
    model, batch = _tiny(), _batch()
    model.lm_head.register_forward_hook(lambda module, args, output: output * 2)
    expected = _reference(model, batch)
    scores = attach(model)(**batch, score=True, entropy=True, accuracy=True)
    torch.testing.assert_close(scores.log_probs, expected, rtol=1e-5, atol=1e-5)
    assert scores.entropy is not None and scores.correct is not None and scores.correct.dtype == torch.bool


def test_router_loss_is_the_models_own() -> None:
    model = _tiny("mixtral", num_local_experts=4, output_router_logits=True, router_aux_loss_coef=0.5)
    batch = _batch()
    own = model(**batch)
    scores = attach(model)(**batch, score=True)
    torch.testing.assert_close(scores.aux_loss, 0.5 * own.aux_loss, rtol=1e-5, atol=1e-6)


def test_other_calls_are_unchanged() -> None:
    model, batch = _tiny(), _batch()
    before = model(**batch)
    attach(attach(model))
    after = model(**batch)
    assert torch.equal(before.logits, after.logits) and torch.equal(before.loss, after.loss)
    generated = model.generate(batch["input_ids"], max_new_tokens=2, do_sample=False)
    assert generated.shape == (3, 14)


def test_weights_and_positions_follow_the_labels() -> None:
    model, batch = attach(_tiny()), _batch()
    weights = torch.rand(batch["labels"].shape)
    scores = model(**batch, weights=weights, score=True)
    assert torch.equal(scores.weights, weights.flatten()[scores.positions])
    assert torch.equal(scores.targets, batch["labels"].flatten()[scores.positions])
    first = torch.arange(3) * 12  # a row's first token has nothing before it
    assert not set(scores.positions.tolist()) & set(first.tolist())


def test_nothing_trained() -> None:
    model, batch = attach(_tiny()), _batch()
    batch["labels"] = torch.full_like(batch["labels"], -100)
    scores = model(**batch, score=True)
    scores.log_probs.sum().backward()
    assert scores.log_probs.shape == (0,)
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.model.layers.parameters())
