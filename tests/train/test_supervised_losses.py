# SPDX-License-Identifier: Apache-2.0
"""DFT, ASFT and EAFT: their papers' equations over whole logits, and one mean per step however it is cut up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.train.losses.linear_log_probs import Anchor, LogitTransform, linear_log_probs
from llamafactory.train.losses.supervised import asft, dft, eaft
from llamafactory.train.token_scores import attach

from .conftest import Keys
from .running import curve, log_of, train, weights_of

ALPHA = 0.3
LOSSES: dict[str, dict[str, Any]] = {
    "dft": {"use_dft_loss": True},
    "asft": {"use_asft_loss": True, "asft_alpha": ALPHA},
    "eaft": {"use_eaft_loss": True, "eaft_alpha": 0.5},
}


def closed_form(name: str, logits: Tensor, base: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The papers' equations, over whole rows of logits [N, V]."""
    nll = F.cross_entropy(logits, targets, reduction="none")
    p = F.softmax(logits, -1)[torch.arange(len(targets)), targets].detach()
    if name == "dft":
        return (weights * p * nll).sum()
    if name == "asft":
        return (weights * (p * nll + ALPHA * kl_divergence(Categorical(logits=base), Categorical(logits=logits)))).sum()
    top = Categorical(logits=logits.detach().topk(20).values).entropy() / math.log(20)
    return (weights * top.sqrt() * nll).sum()


def ours(name: str, scored: Any, weights: Tensor) -> Tensor:
    if name == "dft":
        return dft(scored.log_probs, weights)
    if name == "asft":
        return asft(scored.log_probs, scored.divergence, weights, ALPHA)
    return eaft(scored.log_probs, scored.top_entropy, weights, 0.5)


@pytest.mark.parametrize("head_trained", [False, True])
@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(2.0, 5.0)], ids=["plain", "capped"])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_those_of_the_equation(
    name: str, transform: LogitTransform, head_trained: bool
) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, states = torch.randn(2, 7, 5, generator=draw, dtype=torch.float64)
    head, other = torch.randn(2, 31, 5, generator=draw, dtype=torch.float64)
    targets, weights = torch.randint(31, (7,), generator=draw), torch.rand(7, generator=draw, dtype=torch.float64)
    leaves = [hidden.requires_grad_(), *([head.requires_grad_()] if head_trained else [])]
    logits = hidden @ head.T * transform.scale
    logits = logits if transform.softcap is None else transform.softcap * torch.tanh(logits / transform.softcap)
    expected = closed_form(name, logits, states @ other.T, targets, weights)
    anchor = Anchor(states, lambda part: part @ other.T)
    scored = linear_log_probs(hidden, head, None, targets, 3, transform, top=20, anchor=anchor)
    got = ours(name, scored, weights)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


class _Head(nn.Linear):
    """A head that is not read directly, as one with an adapter."""


@pytest.mark.parametrize("head", [nn.Linear, _Head])
@pytest.mark.parametrize("name", LOSSES)
def test_a_model_gives_what_the_equation_needs(name: str, head: type[nn.Linear]) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    model, base = (LlamaForCausalLM(config).double().eval() for _ in range(2))
    for one in (model, base):
        one.lm_head.__class__ = head
    ids = torch.randint(64, (2, 9))
    logits, base_logits = (one(input_ids=ids).logits[:, :-1].flatten(0, 1) for one in (model, base))
    expected = closed_form(name, logits, base_logits.detach(), ids[:, 1:].flatten(), torch.ones(16))
    weights = [model.model.layers[0].mlp.up_proj.weight, model.lm_head.weight]
    gradients = torch.autograd.grad(expected, weights)
    batch = {"input_ids": ids, "labels": ids, "score": True}
    with torch.no_grad():
        anchor = attach(base)(**batch, as_anchor=True)
    got = ours(name, attach(model)(**batch, top=20, anchor=anchor), torch.ones(16))
    torch.testing.assert_close(got, expected)
    for mine, theirs in zip(torch.autograd.grad(got, weights), gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12)


def _assert_same(one: Path, other: Path) -> None:
    for row, twin in zip(log_of(one), log_of(other), strict=True):
        for key in {"loss", "grad_norm", "nll", "kl"} & row.keys() & twin.keys():
            assert row[key] == pytest.approx(twin[key], rel=1e-5, abs=1e-7), key
    theirs = weights_of(other)
    for name, weight in weights_of(one).items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "asft" else pytest.mark.slow) for name in LOSSES]
)
def test_one_step_is_one_mean(keys: Keys, tmp_path: Path, name: str) -> None:
    """Batch 8 = 8 times 1 = padded rows: losses, gradient norms and weights."""
    given = keys(**LOSSES[name], max_steps=2, finetuning_type="full" if name == "asft" else "lora")
    train(given | {"output_dir": str(tmp_path / "8x1"), "per_device_train_batch_size": 8})
    for place, more in {
        "1x8": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        "padded": {"per_device_train_batch_size": 8, "padding_free": False},
    }.items():
        train(given | more | {"output_dir": str(tmp_path / place)})
        _assert_same(tmp_path / "8x1", tmp_path / place)
    plain = train(keys(max_steps=2, per_device_train_batch_size=8, finetuning_type=given["finetuning_type"]))
    first = next(row for row in log_of(tmp_path / "8x1") if "nll" in row)
    assert first["nll"] == pytest.approx(curve(plain)[0][1], rel=1e-5), "what the loss would be without"
    assert first["loss"] < first["nll"] * 0.999


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_anchor_is_the_model_before_training(keys: Keys, tiny_llama: Path, kind: str) -> None:
    """0 at the first step; at the end what base and trained model, loaded by transformers, differ by."""
    run = train(
        keys(**LOSSES["asft"], finetuning_type=kind, max_steps=3, learning_rate=1e-2, val_size=6, do_train=True,
             do_eval=True)
    )  # fmt: skip
    logged = [row["kl"] for row in log_of(run) if "kl" in row]
    assert logged[0] == pytest.approx(0, abs=1e-6) and logged[-1] > 1e-4
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    if kind == "lora":
        from peft import PeftModel

        twin = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
        trained = PeftModel.from_pretrained(twin, run)
    else:
        trained = AutoModelForCausalLM.from_pretrained(run, dtype=torch.float32)
    args = get_train_args(keys(val_size=6, output_dir=str(run.parent / "other")))
    total, tokens = 0.0, 0
    for row in _eval_rows(args):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
        with torch.no_grad():
            was, now = (model(input_ids=ids).logits[0, :-1][labels != -100] for model in (base, trained))
        total += float(kl_divergence(Categorical(logits=was), Categorical(logits=now)).sum())
        tokens += int((labels != -100).sum())
    evaluated = next(row for row in reversed(log_of(run)) if "eval_kl" in row)
    assert evaluated["eval_kl"] == pytest.approx(total / tokens, rel=1e-3)


def test_the_anchor_of_a_prompt_is_the_prompt_before_training(keys: Keys) -> None:
    run = train(keys(**LOSSES["asft"], finetuning_type="prompt_tuning", max_steps=2, learning_rate=0.3))
    first, second = (row["kl"] for row in log_of(run) if "kl" in row)
    assert first == pytest.approx(0, abs=1e-6) and second > 1e-5


def _eval_rows(args: Any) -> Any:
    from llamafactory.data.loader import get_dataset
    from llamafactory.data.processor import SupervisedProcessor
    from llamafactory.data.template_loader import get_template
    from llamafactory.model import load_tokenizer

    tokenizer = load_tokenizer(args.model)
    return get_dataset(SupervisedProcessor(), get_template(tokenizer, args.data), tokenizer, args).eval[""]


BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"use_dft_loss": True, "use_eaft_loss": True}, "use_dft_loss and use_eaft_loss: choose one loss"),
        ({"use_asft_loss": True, "stage": "pt"}, "use_asft_loss: only for stage sft"),
        (
            {"use_dft_loss": True, "label_smoothing_factor": 0.1},
            "label_smoothing_factor: 0.1 is for cross-entropy, not with use_dft_loss",
        ),
        ({"ref_model": "org/base"}, "ref_model: in stage sft only with use_asft_loss: true"),
        ({"use_asft_loss": True, "asft_alpha": -1}, "asft_alpha: expected 0 or more, got -1"),
    ],
)
def test_losses_that_do_not_go_together(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_train_args({**BASE, **keys})
    assert str(caught.value) == line
