# SPDX-License-Identifier: Apache-2.0
"""Activations that wait on a disk, or are in part computed again: the same gradients bit for bit, nothing left."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.offloading import DiskStore

KEEP = {"activation_keep": "attention"}
BOTH = {**KEEP, "activation_offload": "cpu"}
BASE = {"dataset": "identity", "template": "chatml", "bf16": False}


def gradients(given: dict[str, Any], length: int = 300) -> dict[str, Tensor]:
    """One backward pass over two rows."""
    args = get_train_args(given)
    torch.manual_seed(0)
    model: Any = load_model(load_tokenizer(args.model), args)
    ids = torch.randint(200, (2, length), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)  # of dropout
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
    for more in (
        {"activation_offload": "disk"},
        {"use_unsloth_gc": True},
        {"activation_checkpointing": True},
        KEEP,
        BOTH,
    ):
        got = gradients(given | more)
        assert got.keys() == expected.keys() and all(torch.equal(got[name], expected[name]) for name in got)
    [store] = stores
    assert store.written == 2 * 2 * 300 * 64 * 4, "the input of each of two layers"
    assert store.live == store.end == 0, "nothing is kept after the backward pass"
    assert list((tmp_path / "run").iterdir()) == [], "the file has no name"


class Kernels(TorchDispatchMode):
    """Counts calls of attention's forward kernels, and of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = self.products = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        self.attention += "flash_attention" in name and "backward" not in name
        self.products += name.startswith("aten.mm")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("bf16", [False, True])
def test_what_attention_returned_is_not_computed_again(tiny_llama: Path, bf16: bool) -> None:
    """Twice as many calls as layers where all is computed again; in bfloat16 the kernel is called by code of ours.

    Dropout of the adapters before and after attention must fall as it did in the forward pass.
    """
    given = {**BASE, "model_name_or_path": str(tiny_llama), "bf16": bf16, "lora_dropout": 0.3}
    calls, found = [], []
    for more in ({"activation_checkpointing": False}, {"activation_checkpointing": True}, KEEP):
        with Kernels() as kernels:
            found.append(gradients(given | more, length=150))
        calls.append((kernels.attention, kernels.products))
    assert [attention for attention, _ in calls] == [2, 4, 2]
    assert calls[0][1] < calls[1][1] == calls[2][1], "everything else is computed again"
    for other in found[1:]:
        assert other.keys() == found[0].keys() and all(torch.equal(other[name], found[0][name]) for name in other)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"flash_attn": "disabled"}, "activation_keep: attention is eager here"),
        ({"activation_checkpointing_kwargs": {"use_reentrant": True}}, "activation_keep: not with use_reentrant: true"),
    ],
)
def test_what_cannot_be_kept_is_said(tiny_llama: Path, more: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}"):
        gradients({**BASE, **KEEP, "model_name_or_path": str(tiny_llama), **more})


def test_dropout_inside_of_attention_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_dropout": 0.1}))
    with pytest.raises(ConfigError, match=r"^activation_keep: not with dropout inside of attention"):
        gradients({**BASE, **KEEP, "model_name_or_path": str(tmp_path / "model")})


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
        ({**KEEP, "activation_checkpointing": False}, "activation_keep: not with activation_checkpointing: false"),
        ({**KEEP, "use_reentrant_gc": True}, "activation_keep: not with use_reentrant_gc: true"),
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
