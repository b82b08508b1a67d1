# SPDX-License-Identifier: Apache-2.0
"""One row a method of PEFT: it learns, has the parameters its paper says, is what was saved, resumes and merges."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, TrainerCallback

from llamafactory.export.export import run_export
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args
from llamafactory.model import eval_mode, load_model, load_tokenizer
from llamafactory.model.adapter_config import LIVE, require_merging

from .conftest import Keys
from .running import assert_bit_equal, curve, first_half, train, train_elsewhere

IDS = torch.tensor([[5, 17, 80, 3, 44, 261, 9, 120]])
D, LAYERS, KV = 64, 2, 32
# (outputs, inputs) of the linear layers of one block of the tiny model.
LINEAR = [(D, D), (KV, D), (KV, D), (D, D), (128, D), (128, D), (D, 128)]


def each(formula: Callable[[int, int], float]) -> int:
    """Sum over all linear layers of ``formula(outputs, inputs)``."""
    return int(LAYERS * sum(formula(o, i) for o, i in LINEAR))


def kronecker(o: int, i: int) -> int:
    """LoKr: a weight as the product of two of about the root of its size."""
    a, b = (max(n for n in range(1, math.isqrt(side) + 1) if side % n == 0) for side in (o, i))
    return a * b + (o // a) * (i // b)


class Row(NamedTuple):
    """``keys`` of the run, and how many parameters the method's own paper gives it there."""

    keys: dict[str, Any]
    parameters: int


def peft(**fields: Any) -> dict[str, Any]:
    return {"peft_config": fields} if fields else {}


ROWS: dict[str, Row] = {
    "lora": Row({"lora_rank": 8}, each(lambda o, i: 8 * (o + i))),
    **{
        f"lora {init}": Row({"finetuning_type": "lora", "lora_init": init}, each(lambda o, i: 8 * (o + i)))
        for init in ("gaussian", "orthogonal", "olora", "eva", "corda", "lora_ga")
    },
    "oft": Row({"oft_block_size": 16}, each(lambda o, i: i // 16 * 16 * 15 // 2)),
    "adalora": Row(peft(init_r=12, target_r=4, tfinal=3), each(lambda o, i: 12 * (o + i + 1))),
    "adamss": Row(peft(r=8, num_subspaces=5), each(lambda o, i: 5 * 8 + o)),
    "beft": Row({}, each(lambda o, i: o)),
    "boft": Row(peft(boft_block_size=4), each(lambda o, i: i // 4 * 4 * 4 + o)),
    "c3a": Row(peft(block_size=16), each(lambda o, i: o * i // 16)),
    "deft": Row(peft(r=8), each(lambda o, i: 8 * (o + i))),
    "delora": Row(peft(r=8), each(lambda o, i: 8 * (o + i) + 1)),
    "fourierft": Row(peft(n_frequency=20), each(lambda o, i: 20)),
    "frod": Row(peft(sparse_rate=0.01, progressbar=False), each(lambda o, i: i + int(0.01 * i * i))),
    "glora": Row(peft(r=8), each(lambda o, i: 2 * 8 * (o + i))),
    "gralora": Row(peft(r=4, gralora_k=2), each(lambda o, i: 4 * (o + i))),
    "hira": Row(peft(r=8), each(lambda o, i: 8 * (o + i))),
    "hra": Row(peft(r=8), each(lambda o, i: 8 * i)),
    "ia3": Row({}, LAYERS * (KV + KV + 128)),
    "ln_tuning": Row({}, D * (2 * LAYERS + 1)),
    "loha": Row(peft(r=8), each(lambda o, i: 2 * 8 * (o + i))),
    "lokr": Row(peft(r=8), each(kronecker)),
    "miss": Row(peft(r=8), each(lambda o, i: 8 * o)),
    "osf": Row({}, each(lambda o, i: min(o, i) // 2 * (o + i + 1))),
    "peanut": Row(peft(r=8), each(lambda o, i: 2 * 8 * o)),
    "prompt_tuning": Row(peft(num_virtual_tokens=8) | {"learning_rate": 0.3}, 8 * D),
    "p_tuning": Row(peft(num_virtual_tokens=8, encoder_hidden_size=32), 8 * D + (D + 1) * 32 + 33 * 32 + 33 * D),
    "prefix_tuning": Row(peft(num_virtual_tokens=8) | {"learning_rate": 0.3}, 8 * LAYERS * 2 * KV),
    "psoft": Row(peft(r=8), each(lambda o, i: 8 * 7 // 2 + 2 * 8)),
    "pvera": Row(peft(r=8) | {"learning_rate": 0.1}, each(lambda o, i: o + 2 * 8)),
    "randlora": Row(peft(r=8), each(lambda o, i: min(o, i) // 8 * (8 + min(o, i)))),
    "road": Row(peft(group_size=32), each(lambda o, i: o)),
    "shira": Row(peft(r=8), each(lambda o, i: 8 * (o + i))),
    "supertuning": Row(peft(sparsity=0.99), each(lambda o, i: int(0.01 * o * i))),
    "tinylora": Row(peft(u=64), each(lambda o, i: 64)),
    "trainable_tokens": Row(peft(token_indices=[*range(3, 300)]), 297 * D),
    "unilora": Row(peft(theta_d_length=256), 256),
    "vblora": Row(peft(num_vectors=60, vector_length=32), each(lambda o, i: 4 * (o + i) // 32 * 60) + 60 * 32),
    "vera": Row(peft(r=8), each(lambda o, i: o + 8)),
    "waveft": Row(peft(n_frequency=20), each(lambda o, i: 20)),
}
COMMON = {
    "max_steps": 6,
    "max_samples": 4,  # all of them in each step, so that losses can be compared
    "per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
}
# These keep more than an adapter's tensors from step to step; of the others a resume is seen in the slow tests.
STATEFUL = ("adalora", "lora lora_ga", "p_tuning")
FROM_DATA = ("lora eva", "lora corda", "lora lora_ga")  # they begin from what the first batches show


class _Watch(TrainerCallback):
    """Counts what is trained, and keeps what the finished model computes."""

    trained = 0
    losses: tuple[float, ...] = ()
    logits: torch.Tensor
    beginning: torch.Tensor

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        self.losses = (loss(model, kwargs["train_dataloader"]),)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.losses += (loss(model, kwargs["train_dataloader"]),)
        self.logits = logits(model)
        with torch.no_grad(), eval_mode(model):
            self.beginning = model(input_ids=IDS[:, :4]).logits[:, -4:]


@torch.no_grad()
def loss(model: Any, batches: Any) -> float:
    """Of all rows, without dropout and noise; before a start that looks at data, whose callback comes first."""
    with eval_mode(model):
        return -float(model(**next(iter(batches)), score=True).log_probs.mean())


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits[:, -IDS.shape[1] :]  # PEFT gives those of virtual tokens too


def served(folder: Path, model: Path, **more: Any) -> Any:
    """The adapter as chat, api, infer and eval load it."""
    keys = {"model_name_or_path": str(model), "adapter_name_or_path": str(folder), "infer_dtype": "float32"}
    args = get_infer_args(keys | more)
    return load_model(load_tokenizer(args.model), args, trainable=False)


def assert_near(found: torch.Tensor, expected: torch.Tensor, bound: float = 1e-6) -> None:
    assert (found - expected).abs().max() <= bound * expected.abs().max()


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.filterwarnings("ignore")
def test_a_method_of_peft(kind: str, keys: Keys, tiny_llama: Path) -> None:
    row, watch = ROWS[kind], _Watch()
    settings = keys(**({"finetuning_type": kind} | COMMON | row.keys))
    run = train(settings, [watch])
    assert watch.trained == row.parameters
    assert watch.losses[1] < watch.losses[0] - 1e-3
    assert_near(watch.beginning, watch.logits[:, :4], 1e-5)  # no token depends on those behind it

    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert_near(logits(PeftModel.from_pretrained(base, run)), watch.logits)
    assert_near(logits(served(run, tiny_llama)), watch.logits, 1e-6 if kind.upper() in LIVE else 1e-5)
    if kind.upper() in LIVE:
        with pytest.raises(ConfigError, match=f"is an adapter of type {kind.upper()}, which cannot be merged"):
            require_merging(run)


@pytest.mark.parametrize(
    "kind", [kind if kind in STATEFUL else pytest.param(kind, marks=pytest.mark.slow) for kind in ROWS]
)
@pytest.mark.filterwarnings("ignore")
def test_a_killed_run_goes_on_as_if_nothing_had_been(kind: str, keys: Keys, tmp_path: Path) -> None:
    steps = {"max_steps": 10, "save_strategy": "steps", "save_steps": 5}
    settings = keys(**({"finetuning_type": kind} | COMMON | ROWS[kind].keys | steps))
    whole = train(settings)
    half = tmp_path / "half"
    first_half(whole, half, 10)
    train(settings | {"output_dir": str(half)})
    assert_bit_equal(whole, half)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.filterwarnings("ignore")
def test_two_ranks_are_one(kind: str, keys: Keys, tmp_path: Path) -> None:
    steps = 6 if kind == "adalora" else 3  # it needs some to give ranks away
    given = keys(**({"finetuning_type": kind} | COMMON | ROWS[kind].keys | {"max_steps": steps, "use_cpu": True}))
    pair = given | {"per_device_train_batch_size": 2, "output_dir": str(tmp_path / "pair")}
    done = train_elsewhere(pair, ranks=2)
    if kind in FROM_DATA:
        assert done.returncode and "looks at the batches of one process; train in one" in done.stderr
        return
    assert done.returncode == 0, done.stderr[-2000:]
    if kind == "pvera":  # draws its projections at random in each forward, so in each process others
        return
    found, wanted = curve(tmp_path / "pair"), curve(train(given))
    assert [value for row in found for value in row] == pytest.approx(
        [value for row in wanted for value in row], rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.filterwarnings("ignore")
def test_the_export_is_what_was_trained(kind: str, keys: Keys, tiny_llama: Path, tmp_path: Path) -> None:
    watch = _Watch()
    run = train(keys(**({"finetuning_type": kind} | COMMON | ROWS[kind].keys)), [watch])
    asked = {"model_name_or_path": str(tiny_llama), "adapter_name_or_path": str(run), "template": "chatml"}
    asked |= {"export_dir": str(tmp_path / "export"), "infer_dtype": "float32"}
    if kind.upper() in LIVE:
        with pytest.raises(ConfigError, match="cannot be merged"):
            run_export(asked)
        assert not (tmp_path / "export").exists()
        return
    run_export(asked)
    assert_near(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "export")), watch.logits, 1e-5)
