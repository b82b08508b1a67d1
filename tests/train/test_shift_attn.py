# SPDX-License-Identifier: Apache-2.0
"""A run with shifted attention: packed, checkpointed, killed and gone on with, and evaluated with full attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from .conftest import Keys
from .running import assert_bit_equal, curve, first_half, log_of, train

SHIFT: dict[str, Any] = {"shift_attn": True, "cutoff_len": 64, "finetuning_type": "full", "packing": True}


def test_a_killed_run_goes_on_and_what_was_saved_is_served_with_full_attention(keys: Keys, tmp_path: Path) -> None:
    steps = {"max_steps": 10, "save_strategy": "steps", "save_steps": 5, "learning_rate": 3e-3}
    settings = keys(**SHIFT, **steps, val_size=0.2, eval_strategy="steps", eval_steps=10)
    whole = train(settings)
    losses = [loss for _, loss, _ in curve(whole)]
    assert losses[-1] < losses[0]
    half = tmp_path / "half"
    first_half(whole, half, 10)
    train(settings | {"output_dir": str(half)})
    assert_bit_equal(whole, half)
    # The evaluation of the run is that of the saved model anywhere else.
    alone = train({
        **settings, "shift_attn": False, "do_train": False, "do_eval": True, "model_name_or_path": str(whole),
        "output_dir": str(tmp_path / "alone"),
    })  # fmt: skip
    of_run = next(row["eval_loss"] for row in log_of(whole) if row.get("eval_loss"))
    of_saved = next(row["eval_loss"] for row in log_of(alone) if row.get("eval_loss"))
    assert of_run == pytest.approx(of_saved, rel=1e-6)
    assert not any("shift" in key for key in AutoModelForCausalLM.from_pretrained(whole).config.to_dict())


@pytest.mark.slow
def test_checkpointing_changes_nothing(keys: Keys, tmp_path: Path) -> None:
    runs = [
        train(keys(**SHIFT, max_steps=2, activation_checkpointing=on, output_dir=str(tmp_path / str(on))))
        for on in (False, True)
    ]
    torch.testing.assert_close(*(torch.tensor(curve(run)) for run in runs), rtol=1e-6, atol=1e-7)
    plain = train(keys(**SHIFT | {"shift_attn": False}, max_steps=2, output_dir=str(tmp_path / "plain")))
    assert curve(plain)[0][1] != pytest.approx(curve(runs[0])[0][1], rel=1e-6)


@pytest.mark.slow
def test_a_pack_is_trained_as_its_sequences_alone(keys: Keys, tmp_path: Path) -> None:
    """Batches of the same rows: packed end to end by the collator, one at a time."""
    together = train(keys(**SHIFT | {"packing": False}, max_steps=2, disable_shuffling=True))
    more = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "output_dir": str(tmp_path / "one")}
    apart = train(keys(**SHIFT | {"packing": False} | more, max_steps=2, disable_shuffling=True))
    torch.testing.assert_close(torch.tensor(curve(together)), torch.tensor(curve(apart)), rtol=1e-5, atol=1e-6)
