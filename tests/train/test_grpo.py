# SPDX-License-Identifier: Apache-2.0
"""Stage grpo against TRL's GRPOTrainer, on the same answers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamafactory.extras.errors import ConfigError
from llamafactory.train.rl.completions import rows_of

from .conftest import Keys
from .rollouts import GRPO, make_trainer, prompt_set
from .running import log_of, train


def _shift(model: torch.nn.Module) -> None:
    """Move every weight a little, the same way each time."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)


def _split(batch: dict[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return prompt and answer ids of each sequence of a padding-free batch."""
    found, bounds = [], batch["cu_seqlens"].tolist()
    for (start, end), length in zip(pairwise(bounds), batch["lengths"], strict=True):
        ids = batch["input_ids"][0, start:end]
        found.append((ids[:-length], ids[-length:]))
    return found


def _gradients(loss: torch.Tensor, model: torch.nn.Module) -> float:
    model.zero_grad()
    loss.backward()
    return float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm())


@pytest.mark.parametrize(
    ("loss_type", "more"),
    [
        ("grpo", {"beta": 0.1}),
        ("dapo", {"temperature": 0.8}),
        ("dr_grpo", {"epsilon_high": 0.28, "scale_rewards": "none"}),
        ("bnpo", {"beta": 0.1, "delta": 1.5, "scale_rewards": "group"}),
    ],
)
@pytest.mark.parametrize("moved", [False, True])
def test_loss_and_gradient_are_those_of_trl(
    keys: Keys, tmp_path: Path, make_tiny_model: Any, loss_type: str, more: dict[str, Any], moved: bool
) -> None:
    """On the first update, and on a later one, when the policy has moved away from the answers."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    reference = AutoModelForCausalLM.from_pretrained(make_tiny_model(), dtype=torch.float32)
    _shift(reference)
    reference.save_pretrained(tmp_path / "reference")
    AutoTokenizer.from_pretrained(make_tiny_model()).save_pretrained(tmp_path / "reference")
    settings = {**GRPO, **more, "loss_type": loss_type, "num_iterations": 2 if moved else 1}
    given = keys(**prompt_set(tmp_path), **settings, output_dir=str(tmp_path / "ours"))
    given |= {"ref_model": str(tmp_path / "reference")} if "beta" in more else {}
    ours = make_trainer(given)
    (batch,), count = ours.get_batch_samples(iter(()), 1, torch.device("cpu"))
    arguments = GRPOConfig(
        output_dir=str(tmp_path / "trl"), per_device_train_batch_size=8, num_generations=4, use_cpu=True,
        max_completion_length=given["max_new_tokens"], beta=given.get("beta", 0.0), loss_type=loss_type,
        epsilon_high=given.get("epsilon_high"), delta=given.get("delta"), temperature=given.get("temperature", 1.0),
        bf16=False, gradient_checkpointing=False, report_to="none", use_bias_correction_kl=False,
    )  # fmt: skip
    policy = AutoModelForCausalLM.from_pretrained(given["model_name_or_path"], dtype=torch.float32)
    theirs = GRPOTrainer(
        policy,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "who"}] * 4),
        processing_class=AutoTokenizer.from_pretrained(given["model_name_or_path"]),
    )
    theirs.current_gradient_accumulation_steps = 1
    if moved:
        _shift(ours.model)
        _shift(theirs.model)
    sequences = _split(batch)
    prompts = [prompt.flip(0) for prompt, _ in sequences]
    inputs = {
        "prompt_ids": pad_sequence(prompts, batch_first=True).flip(1),
        "prompt_mask": pad_sequence([torch.ones_like(prompt) for prompt in prompts], batch_first=True).flip(1),
        "completion_ids": pad_sequence([answer for _, answer in sequences], batch_first=True),
        "completion_mask": pad_sequence([torch.ones_like(answer) for _, answer in sequences], batch_first=True),
        "advantages": batch["advantages"],
        "num_items_in_batch": torch.tensor(float(sum(batch["lengths"]))),
    }
    for name, column in (("old", "old_per_token_logps"), ("ref", "ref_per_token_logps")):
        if name in batch:
            inputs[column] = rows_of(batch[name], batch["lengths"])
    assert ("ref" in batch) == ("beta" in more) and ("old" in batch) == moved
    theirs.model.train()
    expected = theirs._compute_loss(theirs.model, inputs)
    batch.pop("rows")
    loss = ours.compute_loss(ours.model, ours._prepare_inputs(batch), num_items_in_batch=count)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    norm = _gradients(loss, ours.model)
    assert norm == pytest.approx(_gradients(expected, theirs.model), rel=1e-4) and norm > 1e-3


@pytest.mark.parametrize("name", ["gspo", "cispo", "rloo", "reinforce_plus_plus"])
def test_every_loss_trains(keys: Keys, tmp_path: Path, name: str) -> None:
    run = train(keys(**prompt_set(tmp_path), **GRPO, loss_type=name, beta=0.05, num_iterations=2))
    rows = log_of(run)
    assert all(abs(row["loss"]) < 100 for row in rows) and rows[0]["grad_norm"] > 0 and rows[2]["grad_norm"] > 0
    assert rows[2]["kl"] > 0 if name in ("gspo", "cispo") else rows[2]["kl"] != 0


def test_groups_must_fit_a_step(keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_generations: 3 does not divide the 8 answers of an optimizer step"):
        train(keys(**prompt_set(tmp_path), **{**GRPO, "num_generations": 3}))
    with pytest.raises(ConfigError, match="num_generations: expected 2 or more"):
        train(keys(**prompt_set(tmp_path), **{**GRPO, "num_generations": 1}))
    with pytest.raises(ConfigError, match=r"delta: expected above 1\.2, got 1\.1"):
        train(keys(**prompt_set(tmp_path), **GRPO, delta=1.1))


def test_rewards_that_never_have_an_opinion_are_refused(keys: Keys, tmp_path: Path) -> None:
    """None is "no opinion"; a function that forgets its return would train nothing, for hours."""
    rewards = tmp_path / "silent.py"
    rewards.write_text("def silent(completions, **columns):\n    return [None] * len(completions)\n")
    given = keys(**{**prompt_set(tmp_path), **GRPO, "reward_funcs": f"{rewards}:silent", "max_steps": 1})
    with pytest.raises(
        ConfigError, match=r"reward_funcs: silent gave None for all 8 completions of step 1, so nothing"
    ):
        train(given)
    assert not list(Path(given["output_dir"]).glob("*.safetensors"))
