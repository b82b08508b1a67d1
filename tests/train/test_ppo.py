# SPDX-License-Identifier: Apache-2.0
"""Stage ppo: the critic, the credit of tokens, and the first update against its equations written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .conftest import Keys
from .pairs import pair_set
from .rollouts import PPO, make_trainer, prompt_set
from .running import log_of, train, weights_of


def test_first_update_is_the_equations_written_out(keys: Keys, tmp_path: Path) -> None:
    """Rewards, GAE (by its sum, not its recursion), whitening, both losses."""
    trainer = make_trainer(keys(**prompt_set(tmp_path), **PPO, output_dir=str(tmp_path / "out")))
    with torch.no_grad():  # a critic that says something
        trainer.model.value_head.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(1)
        for weight in trainer.reference.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    (batch,), count = trainer.get_batch_samples(iter(()), 1, torch.device("cpu"))
    scores = [record["reward"] for record in trainer.rollout_log.newest]
    lines = [batch[name].split(list(batch["lengths"])) for name in ("old", "ref", "values")]
    advantages, returns = [], []
    for score, old, ref, values in zip(scores, *lines, strict=True):
        rewards = -0.2 * (old - ref)
        rewards[-1] += score
        after = torch.cat([values[1:], torch.zeros(1)])
        deltas = rewards + after - values
        ahead = torch.stack(
            [sum(0.95 ** (s - t) * deltas[s] for s in range(t, len(deltas))) for t in range(len(deltas))]
        )
        advantages.append(ahead)
        returns.append(ahead + values)
    line = torch.cat(advantages)
    white = (line - line.mean()) / line.std()
    assert torch.allclose(batch["advantages"], white, atol=1e-5)
    assert torch.allclose(batch["returns"], torch.cat(returns), atol=1e-5)
    values = torch.cat(lines[2])
    expected = -white.mean() + 0.1 * ((values - torch.cat(returns)) ** 2).mean() / 2
    batch.pop("rows")
    loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch), num_items_in_batch=count)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    kl = torch.stack([(old - ref).sum() for old, ref in zip(*lines[:2], strict=True)]).mean()
    assert trainer.kl.coefficient == pytest.approx(0.2 * (1 - 0.2 * 8 / 10_000)) and abs(kl) < 4.8


def test_the_critic_learns_and_is_kept(keys: Keys, tmp_path: Path) -> None:
    run = train(keys(**prompt_set(tmp_path), **{**PPO, "max_steps": 20, "ppo_epochs": 4, "ppo_buffer_size": 2}))
    losses = [row["value_loss"] for row in log_of(run)]
    assert sum(losses[-4:]) < sum(losses[:4])
    head = load_file(run / "value_head.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in head.items()} == {
        "v_head.summary.weight": (1, 64),
        "v_head.summary.bias": (1,),
    }
    assert head["v_head.summary.weight"].abs().max() > 0
    assert [row["current_steps"] for row in log_of(run) if "reward" in row] == [
        1,
        9,
        13,
    ]  # 24 prompts fill three steps an epoch


def test_a_reward_adapter_on_the_policy(keys: Keys, tmp_path: Path) -> None:
    """It scores, is not trained and not saved, and a resume finds its way around it."""
    (tmp_path / "pairs").mkdir()
    judge = train(keys(stage="rm", **pair_set(tmp_path / "pairs"), max_steps=2, output_dir=str(tmp_path / "rm")))
    prompts = prompt_set(tmp_path)
    prompts.pop("reward_funcs")
    more = {"finetuning_type": "lora", "save_strategy": "steps", "save_steps": 3, "max_steps": 4}
    given = keys(**prompts, **{**PPO, **more}, reward_model=str(judge))
    whole = train(given)
    rows = log_of(whole)
    assert rows[0]["reward"] == rows[0]["reward/reward_model"] != 0
    assert not (whole / "reward").exists() and not [name for name in weights_of(whole) if "score" in name]
    again = train(
        given | {"output_dir": str(tmp_path / "again"), "resume_from_checkpoint": str(whole / "checkpoint-3")}
    )
    theirs = weights_of(whole)
    assert all(torch.equal(weight, theirs[name]) for name, weight in weights_of(again).items())
