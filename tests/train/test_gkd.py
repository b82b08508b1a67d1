# SPDX-License-Identifier: Apache-2.0
"""Stage gkd: divergences in float64, whole steps against transformers, the student's own answers, several teachers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from llamafactory.extras import logging
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.train.gkd.own_answers import prompt_of
from llamafactory.train.losses.linear_log_probs import Anchor, LogitTransform, linear_log_probs
from llamafactory.train.token_scores import attach

from .conftest import Keys, quick_keys
from .rollouts import make_trainer
from .running import assert_bit_equal, first_half, log_of, train, train_elsewhere, weights_of


def jensen_shannon(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """The definition, by the probabilities themselves; forward and reverse KL at 0 and 1. [..., V] -> [...]"""
    p, r = student.softmax(-1), teacher.softmax(-1)
    if beta in (0, 1):
        one, other = (r, p) if beta == 0 else (p, r)
        return (one * (one / other).log()).sum(-1)
    m = beta * r + (1 - beta) * p
    return beta * (r * (r / m).log()).sum(-1) + (1 - beta) * (p * (p / m).log()).sum(-1)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("sizes", [(31, 31), (31, 29), (29, 31)], ids=str)
@pytest.mark.parametrize("head_trained", [True, False])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_values_and_gradients(beta: float, sizes: tuple[int, int], head_trained: bool, softcap: float | None) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, states = torch.randn(2, 7, 5, generator=draw, dtype=torch.float64)
    head, other = (torch.randn(size, 5, generator=draw, dtype=torch.float64) for size in sizes)
    targets, weights = torch.randint(29, (7,), generator=draw), torch.rand(7, generator=draw, dtype=torch.float64)
    leaves = [hidden.requires_grad_(), *([head.requires_grad_()] if head_trained else [])]
    logits = hidden @ head.T * 1.3
    logits = (logits if softcap is None else softcap * torch.tanh(logits / softcap)) / 0.7
    common = min(sizes)
    expected = (jensen_shannon(logits[:, :common], (states @ other.T)[:, :common], beta) * weights).sum()
    anchor = Anchor(states, lambda part: part @ other.T, beta)
    transform = LogitTransform(1.3, softcap, temperature=0.7)
    scored = linear_log_probs(hidden, head, None, targets, 3, transform, anchor=anchor)
    assert scored.divergence is not None
    got = (scored.divergence * weights).sum()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


class _Head(nn.Linear):
    """A head that is not read directly, as one with an adapter."""


@pytest.mark.parametrize("head", [nn.Linear, _Head])
def test_a_teacher_of_its_own_width_and_padding(head: type[nn.Linear]) -> None:
    torch.manual_seed(0)
    shape = {"intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "tie_word_embeddings": False}
    student = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=16, **shape)).double().eval()
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=72, hidden_size=32, **shape)).double().eval()
    for one in (student, teacher):
        one.lm_head.__class__ = head
    teacher.requires_grad_(False)
    ids = torch.randint(64, (2, 9))
    logits, others = (one(input_ids=ids).logits[:, :-1].flatten(0, 1) for one in (student, teacher))
    expected = jensen_shannon(logits / 2, others[:, :64] / 2, 0.3).sum()
    weights = [student.model.layers[0].mlp.up_proj.weight, student.lm_head.weight]
    gradients = torch.autograd.grad(expected, weights)
    batch = {"input_ids": ids, "labels": ids, "score": True, "temperature": 2.0}
    with torch.no_grad():
        found = attach(teacher)(**batch, as_anchor=True)
    assert found.states.shape == (16, 32), "hidden states are kept, not logits"
    scores = attach(student)(**batch, anchor=Anchor(found.states, found.logits_of, 0.3))
    torch.testing.assert_close(scores.divergence.sum(), expected)
    for mine, theirs in zip(torch.autograd.grad(scores.divergence.sum(), weights), gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12)


@pytest.fixture(scope="module")
def teacher(make_tiny_model: Any) -> Path:
    """Another architecture with the student's tokenizer, whose vocabulary is padded further."""
    return make_tiny_model("qwen3", hidden_size=32, initializer_range=0.3, vocab_size=416, eos_token_id=2)


@pytest.fixture(scope="module")
def schooled(tiny_llama: Path, alpaca: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Keys of a teacher that has learnt the answers of all rows."""
    folder = tmp_path_factory.mktemp("schooled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(folder / "cache"))
        more = {"finetuning_type": "full", "learning_rate": 1e-2, "max_steps": 40}
        yield {"teacher_model_name_or_path": str(train(quick_keys(tiny_llama, alpaca, folder / "run", **more)))}


@pytest.fixture
def gkd(keys: Keys, teacher: Path) -> Keys:
    """Keys of a quick distillation."""
    given = {"stage": "gkd", "teacher_model_name_or_path": str(teacher), "finetuning_type": "full"}
    return lambda **more: keys(**{**given, "optim": "adamw_torch", **more})


def by_transformers(given: dict[str, Any], batches: list[dict[str, Any]], teachers: list[Path]) -> float:
    """The mean over trained tokens of some batches, sequence by sequence, by transformers in float64.

    ``teachers`` are those of the training sets in order.
    """
    student, *others = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
        for path in (given["model_name_or_path"], *teachers)
    )
    total, tokens = 0.0, 0
    for batch in batches:
        ends = batch["cu_seqlens"].tolist()
        for number, (start, end) in enumerate(pairwise(ends)):
            ids, labels = batch["input_ids"][:, start:end], batch["labels"][0, start + 1 : end]
            other = others[int(batch["channels"][number]) if "channels" in batch else 0]
            with torch.no_grad():
                mine, theirs = (one(input_ids=ids).logits[0, :-1][labels != -100] for one in (student, other))
            beta, temperature = given["gkd_beta"], given["gkd_temperature"]
            common = mine.shape[-1]
            total += float(jensen_shannon(mine / temperature, theirs[:, :common] / temperature, beta).sum())
            tokens += int((labels != -100).sum())
    return total / tokens


def first_step(given: dict[str, Any]) -> tuple[list[dict[str, Any]], float]:
    """Return the batches of the first optimizer step, and its loss."""
    trainer = make_trainer(given)
    trainer.state.global_step = 0
    loader = iter(trainer.get_train_dataloader())
    batches, items = trainer.get_batch_samples(loader, given.get("gradient_accumulation_steps", 1), torch.device("cpu"))
    kept = [dict(batch) for batch in batches]
    model = trainer.model.eval()
    losses = [trainer.compute_loss(model, dict(batch), num_items_in_batch=items).item() for batch in batches]
    return kept, sum(losses)


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_the_loss_of_a_step_is_that_of_transformers(gkd: Keys, teacher: Path, share: float) -> None:
    """On policy the mean is over what the student wrote, not over the answers of the data."""
    given = gkd(
        gkd_beta=0.3, gkd_temperature=1.5, gkd_lambda=share, max_new_tokens=5, gradient_accumulation_steps=2,
        disable_shuffling=True,
    )  # fmt: skip
    batches, loss = first_step(given)
    assert loss == pytest.approx(by_transformers(given, batches, [teacher]), rel=1e-5) and loss > 0.01
    plain, _ = first_step({**given, "gkd_lambda": 0.0, "output_dir": given["output_dir"] + "-plain"})
    replaced = sum(not torch.equal(one["labels"], other["labels"]) for one, other in zip(batches, plain, strict=True))
    assert (replaced > 0) == (share > 0)


def test_all_rows_are_answered_by_the_student(gkd: Keys) -> None:
    batches, _ = first_step(gkd(gkd_lambda=1.0, max_new_tokens=3, gkd_beta=1.0, gkd_temperature=1.0))
    given, _ = first_step(gkd(gkd_beta=1.0, gkd_temperature=1.0, output_dir="unused"))
    for batch in batches:
        ends = batch["cu_seqlens"].tolist()
        for start, end in pairwise(ends):
            labels = batch["labels"][0, start:end]
            trained = labels != -100
            assert 1 <= int(trained.sum()) <= 3 and bool(trained[-1])
            assert torch.equal(labels[trained], batch["input_ids"][0, start:end][trained])
    prompts = [row["input_ids"][0, : int((row["labels"] != -100).nonzero()[0, 1])] for row in given]
    own = [row["input_ids"][0, : int((row["labels"] != -100).nonzero()[0, 1])] for row in batches]
    assert all(torch.equal(one, other) for one, other in zip(prompts, own, strict=True))


def test_a_prompt_ends_before_the_last_answer() -> None:
    row = {"input_ids": [1, 2, 3, 4, 5, 6, 7], "labels": [-100, 2, 3, -100, -100, 6, 7]}
    assert prompt_of(row) == [1, 2, 3, 4, 5]
    assert prompt_of({"input_ids": [1, 2], "labels": [1, 2]}) == [1]


def test_every_set_has_its_teacher(
    gkd: Keys, alpaca: Path, teacher: Path, make_tiny_model: Any, tmp_path: Path
) -> None:
    other = make_tiny_model(initializer_range=0.2, num_hidden_layers=1)
    second = tmp_path / "second.json"
    second.write_text(json.dumps(json.loads(alpaca.read_text())[::-1]))
    given = gkd(
        dataset=f"{alpaca},{second}", teacher_model={str(second): str(other)}, gkd_beta=0.0, gkd_temperature=1.0,
        per_device_train_batch_size=8,
    )  # fmt: skip
    batches, loss = first_step(given)
    assert len(set(batches[0]["channels"].tolist())) == 2
    assert loss == pytest.approx(by_transformers(given, batches, [teacher, other]), rel=1e-5)
    assert loss != pytest.approx(by_transformers(given, batches, [teacher, teacher]), rel=1e-2)
    padded, same = first_step(given | {"padding_free": False, "output_dir": str(tmp_path / "padded")})
    assert "attention_mask" in padded[0] and same == pytest.approx(loss, rel=1e-5)


CUT = {
    "max_steps": 4, "gkd_lambda": 0.5, "max_new_tokens": 4, "learning_rate": 3e-3, "save_strategy": "steps",
    "save_steps": 2, "per_device_train_batch_size": 8, "lr_scheduler_type": "constant",
}  # fmt: skip


def _assert_same(one: Path, other: Path) -> None:
    for row, twin in zip(log_of(one), log_of(other), strict=True):
        for key in {"loss", "nll", "grad_norm"} & row.keys():
            assert row[key] == pytest.approx(twin[key], rel=1e-4), key
    theirs = weights_of(other)
    for name, weight in weights_of(one).items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-4, atol=1e-4, msg=name)


def test_a_step_is_one_mean_and_a_run_goes_on(gkd: Keys, tmp_path: Path) -> None:
    """Batch 8 = 8 times 1, and a run that goes on is the whole one, with answers of the student among the rows."""
    whole = train(gkd(**CUT))
    split = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "save_strategy": "no"}
    _assert_same(whole, train(gkd(**{**CUT, **split}, output_dir=str(tmp_path / "1x8"))))
    first_half(whole, tmp_path / "half", 4)
    assert_bit_equal(train(gkd(**CUT, output_dir=str(tmp_path / "half"))), whole)


@pytest.mark.slow
def test_two_ranks_are_one(gkd: Keys, tmp_path: Path) -> None:
    whole = train(gkd(**CUT))
    two = gkd(**{**CUT, "per_device_train_batch_size": 4}, output_dir=str(tmp_path / "two"))
    done = train_elsewhere(two, ranks=2)
    assert done.returncode == 0, done.stderr
    _assert_same(whole, tmp_path / "two")


@pytest.mark.parametrize(
    ("more", "share"),
    [
        ({"finetuning_type": "lora", "packing": True}, 0.98),  # little can change over a random head
        ({"finetuning_type": "freeze", "freeze_trainable_layers": 1}, 0.98),
        ({"finetuning_type": "full", "gkd_beta": 1.0, "padding_free": False}, 0.5),
    ],
    ids=str,
)
def test_the_student_comes_nearer(gkd: Keys, schooled: dict[str, Any], more: dict[str, Any], share: float) -> None:
    """The divergence on rows that are not trained on falls, by half where all weights are trained."""
    given = {"max_steps": 40, "learning_rate": 1e-2, "val_size": 8, "eval_strategy": "steps", "eval_steps": 40}
    run = train(gkd(**schooled, **given, **more, compute_accuracy=True))
    first = next(row["loss"] for row in log_of(run) if "loss" in row)
    last = next(row for row in log_of(run) if "eval_loss" in row)
    assert last["eval_loss"] < share * first, (first, last["eval_loss"])
    assert {"eval_nll", "accuracy"} <= set(last)


def test_the_teacher_may_be_the_student_with_an_adapter(gkd: Keys, tiny_llama: Path, tmp_path: Path) -> None:
    sft = {"stage": "sft", "finetuning_type": "lora", "teacher_model_name_or_path": None, "learning_rate": 1e-2}
    adapter = train(gkd(**sft, output_dir=str(tmp_path / "adapter")))
    given = {"teacher_model_name_or_path": str(tiny_llama), "teacher_model_adapters": str(adapter)}
    _, loss = first_step(gkd(**given, output_dir=str(tmp_path / "with")))
    _, none = first_step(gkd(teacher_model_name_or_path=str(tiny_llama), output_dir=str(tmp_path / "without")))
    assert none == pytest.approx(0, abs=1e-7) and loss > 1e-4


def test_the_teacher_has_bits_of_its_own(gkd: Keys) -> None:
    from llamafactory.model.quantizers.layers import is_quantized

    trainer = make_trainer(gkd(teacher_model_quantization_bit=4))
    [teacher] = trainer.teachers.models
    assert is_quantized(teacher) and not is_quantized(trainer.model)


def test_another_tokenizer_is_refused(gkd: Keys, teacher: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    text = (other / "tokenizer.json").read_text()
    made = json.loads(text)
    vocabulary = made["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(ConfigError, match=r"^teacher_model_name_or_path: '.*' has another vocabulary .*: 2 of"):
        train(gkd(teacher_model_name_or_path=str(other)))


BASE = {"model_name_or_path": "org/tiny", "dataset": "one,two", "stage": "gkd"}
ONE = {"teacher_model_name_or_path": "org/big"}


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            {},
            "teacher_model_name_or_path: missing, stage gkd needs a teacher (or teacher_model, one for each data set)",
        ),
        ({**ONE, "gkd_beta": 1.5}, "gkd_beta: expected a number from 0 to 1, got 1.5"),
        ({**ONE, "gkd_temperature": 0}, "gkd_temperature: expected above 0, got 0"),
        (
            {**ONE, "teacher_model": {"three": "m"}},
            "teacher_model: three is no set of dataset or eval_dataset (one, two)",
        ),
        (
            {"teacher_model": {"one": "m"}},
            "teacher_model: no teacher for two; name it, or give teacher_model_name_or_path",
        ),
        ({**ONE, "teacher_model": {"one": 3}}, "teacher_model: one: expected a model, got 3"),
        (
            {**ONE, "teacher_model": {"one": "m"}, "teacher_model_adapters": "a"},
            "teacher_model_adapters: several teachers cannot share them",
        ),
        ({**ONE, "teacher_model_quantization_bit": 5}, "teacher_model_quantization_bit: expected 4 or 8, got 5"),
        (
            {**ONE, "label_smoothing_factor": 0.1},
            "label_smoothing_factor: 0.1 is for cross-entropy, not for stage gkd",
        ),
        (
            {**ONE, "gkd_lambda": 0.5, "packing": True},
            "gkd_lambda: the student answers rows one by one; set packing: false",
        ),
        (
            {**ONE, "gkd_lambda": 0.5, "temperature": 0},
            "do_sample: stage gkd needs draws at random",
        ),
        ({**ONE, "stage": "sft"}, "teacher_model_name_or_path: only for stage gkd, not sft"),
        (
            {"teacher_model": {"one": "m", "two": "n"}, "val_size": 0.1},
            "teacher_model: which teacher judges evaluation rows is not known; give eval_dataset and "
            "eval_on_each_dataset, or teacher_model_name_or_path",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_keys_that_do_not_go_together(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_train_args({**BASE, **keys})
    assert str(caught.value) == line


@pytest.mark.parametrize(("beta", "kind"), [(0.001, "forward"), (0.999, "reverse"), (0.0, ""), (0.1, "")])
def test_a_beta_near_its_ends_is_said(
    beta: float, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "_said", set())
    get_train_args({**BASE, **ONE, "gkd_beta": beta})
    said = capsys.readouterr().err
    assert (f"not the {kind} KL" in said) == bool(kind)
