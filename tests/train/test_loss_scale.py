# SPDX-License-Identifier: Apache-2.0
"""One step is one mean over its trained tokens: however it is cut into ranks, micro-batches and packs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from llamafactory.data.collators import PaddedCollator, PaddingFreeCollator
from llamafactory.data.loader import get_dataset
from llamafactory.data.processor import PretrainProcessor, SupervisedProcessor
from llamafactory.data.template_loader import get_template
from llamafactory.hparams import get_train_args
from llamafactory.model import is_isolating, load_model, load_tokenizer
from llamafactory.train.losses.cross_entropy import cross_entropy
from llamafactory.train.token_scores import attach

from .conftest import Keys
from .running import curve, log_of, train, train_elsewhere, weights_of


def _assert_same_run(one: Path, other: Path) -> None:
    for (step, loss, norm), (step_2, loss_2, norm_2) in zip(curve(one), curve(other), strict=True):
        assert step == step_2
        assert loss == pytest.approx(loss_2, rel=1e-5)
        assert norm == pytest.approx(norm_2, rel=1e-5)
    theirs = weights_of(other)
    for name, weight in weights_of(one).items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-5, atol=1e-5, msg=name)


def test_ranks_accumulation_and_batch_are_one_global_batch(keys: Keys, tmp_path: Path) -> None:
    common = {"finetuning_type": "full", "val_size": 5, "do_train": True, "do_eval": True, "compute_accuracy": True}
    one = keys(**common, output_dir=str(tmp_path / "1x1x8"))
    train(one | {"per_device_train_batch_size": 8})
    train(
        one
        | {"output_dir": str(tmp_path / "1x8x1"), "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    )
    two = {"output_dir": str(tmp_path / "2x2x2"), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    result = train_elsewhere(one | two, ranks=2)
    assert result.returncode == 0, result.stderr[-2000:]
    _assert_same_run(tmp_path / "1x1x8", tmp_path / "1x8x1")
    _assert_same_run(tmp_path / "1x1x8", tmp_path / "2x2x2")
    # 5 rows over 2 ranks do not come out even: no row may count twice.
    ours, theirs = ([row for row in log_of(tmp_path / name) if "eval_loss" in row][-1] for name in ("1x1x8", "2x2x2"))
    assert ours["eval_loss"] == pytest.approx(theirs["eval_loss"], rel=1e-5)
    assert ours["accuracy"] == theirs["accuracy"]


@pytest.mark.slow
def test_a_rank_that_is_lost_is_started_again(keys: Keys, tmp_path: Path) -> None:
    """torchrun starts both anew, and they go on from the last checkpoint although overwrite_output_dir is set."""
    one = keys(finetuning_type="full", output_dir=str(tmp_path / "one"), per_device_train_batch_size=8)
    two = {"output_dir": str(tmp_path / "two"), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    again = {"save_strategy": "steps", "save_steps": 3, "overwrite_output_dir": True}
    train(one)
    result = train_elsewhere(one | two | again, ranks=2, restarts=1, KILL_AT="4", KILL_RANK="1")
    assert result.returncode == 0, result.stderr[-2000:]
    assert f"resuming from {tmp_path / 'two' / 'checkpoint-3'}" in result.stderr
    _assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_ranks_are_one_in_pretraining(keys: Keys, tmp_path: Path) -> None:
    given = keys(stage="pt", max_steps=3, output_dir=str(tmp_path / "one"))
    two = given | {"output_dir": str(tmp_path / "two"), "per_device_train_batch_size": 2}
    train(given)
    result = train_elsewhere(two, ranks=2)
    assert result.returncode == 0, result.stderr[-2000:]
    _assert_same_run(tmp_path / "one", tmp_path / "two")


def _prepared(keys: Keys, stage: str, **more: Any) -> tuple[Any, Any, Any]:
    args = get_train_args(keys(stage=stage, finetuning_type="full", **more))
    tokenizer = load_tokenizer(args.model)
    template = get_template(tokenizer, args.data)
    processor = {"pt": PretrainProcessor, "sft": SupervisedProcessor}[stage]()
    return args, tokenizer, get_dataset(processor, template, tokenizer, args).train


@pytest.mark.parametrize("stage", ["sft", "pt"])
def test_packed_equals_unpacked(keys: Keys, alpaca: Path, stage: str) -> None:
    """Loss and every gradient of packs under isolated attention = padded rows through the model's own SDPA logits."""
    args, tokenizer, packed = _prepared(keys, stage, packing=True)
    _, _, plain = _prepared(keys, stage, packing=False)
    assert len(packed) < len(plain) and sum(map(len, packed["seq_lens"])) == len(plain)
    trained = sum(label != -100 for row in plain["labels"] for label in row)

    reference = AutoModelForCausalLM.from_pretrained(args.model.model_name_or_path, dtype=torch.float32)
    batch = PaddedCollator(tokenizer)([plain[i] for i in range(len(plain))])
    logits = reference(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum") / trained
    loss.backward()

    model = attach(load_model(tokenizer, args))
    assert is_isolating(model)
    total = 0.0
    for i in range(len(packed)):
        scores = model(**PaddingFreeCollator(tokenizer)([packed[i]]), score=True)
        share = cross_entropy(scores.log_probs, scores.weights, trained)
        share.backward()
        total += float(share.detach())
    assert total == pytest.approx(float(loss.detach()), rel=1e-5)
    expected = dict(reference.named_parameters())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name].grad, rtol=1e-5, atol=1e-6, msg=name)


def test_padding_free_and_padded_runs_are_the_same(keys: Keys, tmp_path: Path) -> None:
    train(keys(output_dir=str(tmp_path / "free")))
    train(keys(output_dir=str(tmp_path / "padded"), padding_free=False))
    _assert_same_run(tmp_path / "free", tmp_path / "padded")


def test_message_weights_scale_the_loss_but_not_the_count(keys: Keys) -> None:
    """L = sum(w * nll) / number of trained tokens: halving every weight halves the loss."""
    _, tokenizer, rows = _prepared(keys, "sft")
    args = get_train_args(keys(finetuning_type="full"))
    model = attach(load_model(tokenizer, args))
    batch = PaddingFreeCollator(tokenizer)([rows[i] for i in range(4)])
    plain = model(**batch, score=True)
    halved = model(**batch, weights=torch.full(batch["labels"].shape, 0.5), score=True)
    whole = cross_entropy(plain.log_probs, plain.weights, len(plain.targets))
    half = cross_entropy(halved.log_probs, halved.weights, len(plain.targets))
    assert half.item() == pytest.approx(whole.item() / 2)


def test_label_smoothing_and_neftune_run(keys: Keys, tmp_path: Path) -> None:
    plain = curve(train(keys(output_dir=str(tmp_path / "a"))))
    smooth = curve(train(keys(output_dir=str(tmp_path / "b"), label_smoothing_factor=0.2)))
    noisy = curve(train(keys(output_dir=str(tmp_path / "c"), neftune_noise_alpha=50)))
    assert smooth[0][1] != plain[0][1] and noisy[0][1] != plain[0][1]
