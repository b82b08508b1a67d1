# SPDX-License-Identifier: Apache-2.0
"""Activations that wait on a disk: the same gradients bit for bit, and nothing left behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.offloading import DiskStore

BASE = {"dataset": "identity", "template": "chatml", "bf16": False}


def gradients(given: dict[str, Any]) -> dict[str, Tensor]:
    """One backward pass over 600 tokens, without dropout."""
    args = get_train_args(given)
    torch.manual_seed(0)
    model: Any = load_model(load_tokenizer(args.model), args)
    ids = torch.randint(200, (2, 300), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_gradients_are_the_same_bit_for_bit(
    tiny_llama: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        **BASE,
        "model_name_or_path": str(tiny_llama),
        "finetuning_type": kind,
        "output_dir": str(tmp_path / "run"),
    }
    stores: list[DiskStore] = []
    plain = DiskStore.__init__
    monkeypatch.setattr(DiskStore, "__init__", lambda self, folder: stores.append(self) or plain(self, folder))
    expected = gradients(given)
    for more in ({"activation_offload": "disk"}, {"use_unsloth_gc": True}, {"activation_checkpointing": True}):
        got = gradients(given | more)
        assert got.keys() == expected.keys() and all(torch.equal(got[name], expected[name]) for name in got)
    [store] = stores
    assert store.written == 2 * 2 * 300 * 64 * 4, "the input of each of two layers"
    assert store.live == store.end == 0, "nothing is kept after the backward pass"
    assert list((tmp_path / "run").iterdir()) == [], "the file has no name"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_a_tensor_comes_back_as_it_was(tmp_path: Path, dtype: torch.dtype) -> None:
    store = DiskStore(tmp_path)
    tensors = [(torch.randn(200, 300) * 10).to(dtype).T for _ in range(3)]
    kept = [store.pack(tensor) for tensor in tensors]
    del kept[1]
    for place, tensor in zip(kept, (tensors[0], tensors[2]), strict=True):
        for _ in range(2):  # a graph may be walked twice
            assert torch.equal(store.unpack(place), tensor)
    weight = torch.nn.Parameter(torch.zeros(300, 300))
    assert store.pack(weight) is weight and store.pack(small := torch.zeros(3)) is small
    del kept, place
    assert (store.live, store.end) == (0, 0)


def test_a_full_disk_is_an_error_and_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskStore(tmp_path)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        store.pack(torch.zeros(300, 300))
    assert store.live == 0


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            {"use_unsloth_gc": True, "activation_offload": "disk"},
            "use_unsloth_gc and activation_offload: disk: choose one",
        ),
        (
            {"activation_offload": "disk", "disable_gradient_checkpointing": True},
            "activation_offload: not with disable_gradient_checkpointing: true",
        ),
        (
            {"use_unsloth_gc": True, "activation_checkpointing": False},
            "use_unsloth_gc: not with activation_checkpointing: false",
        ),
        (
            {"activation_offload": "cpu", "use_reentrant_gc": True},
            "activation_offload: not with use_reentrant_gc: true",
        ),
    ],
)
def test_wrong_combinations(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_train_args({"model_name_or_path": "org/tiny", "dataset": "identity", **keys})
    assert str(caught.value) == line
