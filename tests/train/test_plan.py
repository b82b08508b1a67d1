# SPDX-License-Identifier: Apache-2.0
"""`plan` against what a real step holds, and against what follows from shapes alone."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import TrainArgs, get_train_args, resolve_dtypes
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.empty import planned_config
from llamafactory.model.reference import reference_args
from llamafactory.train.commands.plan import run_plan
from llamafactory.train.losses.linear_log_probs import LogitTransform
from llamafactory.train.planning import simulation
from llamafactory.train.planning.devices import GIB, find_device
from llamafactory.train.planning.needs import find_needs
from llamafactory.train.planning.simulation import Step, simulate
from llamafactory.train.token_scores import attach

SHAPE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "head_dim": 32}
CPU = find_device("cpu")


@pytest.fixture(scope="module")
def base(make_tiny_model: Callable[..., Path]) -> dict[str, Any]:
    return {"model_name_or_path": str(make_tiny_model(**SHAPE)), "dataset": "identity", "template": "chatml"}


def arguments(base: dict[str, Any], **keys: Any) -> TrainArgs:
    return get_train_args({**base, "cutoff_len": 256, "per_device_train_batch_size": 2, "use_cpu": True, **keys})


def real_activations(args: TrainArgs, checkpointing: bool) -> int:
    """Bytes of what autograd keeps of a real forward pass, each storage once, weights left out."""
    model = load_model(load_tokenizer(args.model), args)
    attach(model, LogitTransform())
    if checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.zeros(2, 256, dtype=torch.long)
    positions = torch.arange(1, ids.numel())
    dtypes = resolve_dtypes(args, CPU.device)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=dtypes.autocast),
    ):
        model(input_ids=ids, labels=ids, positions=positions, score=True)
    return sum(storage.nbytes() for storage in kept.values())


def bytes_of(model: Any) -> int:
    """Bytes of frozen weights, and of what bitsandbytes keeps beside those that it packed."""
    held = sum(weight.nbytes for weight in (*model.parameters(), *model.buffers()) if not weight.requires_grad)
    for weight in model.parameters():
        state = getattr(weight, "quant_state", None)
        if state is not None:
            held += state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)
    return held


@pytest.mark.parametrize("keys", [{}, {"finetuning_type": "full"}, {"finetuning_type": "full", "pure_bf16": True}])
def test_activations_are_what_autograd_keeps(base: dict[str, Any], keys: dict[str, Any]) -> None:
    args = arguments(base, **keys)
    assert simulate(args, CPU, False).activations == pytest.approx(real_activations(args, False), rel=0.05)


def test_weights_gradients_and_moments_follow_from_shapes(base: dict[str, Any]) -> None:
    d, f, v, kv, layers = 128, 256, planned_config(arguments(base)).vocab_size, 64, 3
    of_layers = layers * (2 * d * d + 2 * d * kv + 3 * d * f + 2 * d)
    whole = simulate(arguments(base, finetuning_type="full", bf16=True), CPU, False)
    assert whole.parameters == of_layers + v * d + d and whole.frozen < 4096  # positions' frequencies
    assert whole.trained == whole.gradients == 4 * whole.parameters
    assert whole.optimizer == pytest.approx(2 * whole.trained, rel=1e-3)
    lora = simulate(arguments(base, lora_rank=4, bf16=True), CPU, False)
    assert lora.parameters == layers * 4 * (2 * (d + d) + 2 * (d + kv) + 3 * (d + f))
    assert lora.trained == 4 * lora.parameters and lora.frozen == pytest.approx(2 * whole.parameters, rel=1e-2)


@pytest.mark.parametrize(
    ("optim", "made"),
    [
        ("adamw_torch_fused", 0),
        ("adafactor", 2),  # of the squared gradient; of the update and its negative
        ("lion_32bit", 3),  # on a CPU: the gradient in float32, the update and its sign
    ],
)
def test_an_optimizers_step_makes_tensors_of_the_largest_weight(base: dict[str, Any], optim: str, made: int) -> None:
    args = arguments(base, finetuning_type="full", bf16=True, optim=optim)
    step = simulate(args, CPU, False)
    held = step.frozen + step.trained + step.gradients + step.optimizer
    embedding = 4 * planned_config(args).vocab_size * SHAPE["hidden_size"]
    assert step.update - held == pytest.approx(made * embedding, abs=0.1 * embedding)


def test_the_heap_of_a_cpu_has_gaps(base: dict[str, Any]) -> None:
    here, there = (find_needs(arguments(base), find_device(text)) for text in ("cpu", "24GiB"))
    assert here.parts["gaps"] > 0.2 * here.parts["activations"] and "gaps" not in there.parts


@pytest.mark.parametrize(
    "keys", [{"quantization_bit": 4}, {"quantization_bit": 4, "double_quantization": False}, {"quantization_bit": 8}]
)
def test_quantized_weights_take_what_bitsandbytes_takes(base: dict[str, Any], keys: dict[str, Any]) -> None:
    args = arguments(base, bf16=True, **keys)
    model = load_model(load_tokenizer(args.model), args)
    held = bytes_of(model)
    assert simulate(args, CPU, False).frozen == pytest.approx(held, rel=0.02)


def test_the_peak_holds_everything_and_checkpointing_lowers_it(base: dict[str, Any]) -> None:
    plain, cheap = (simulate(arguments(base, cutoff_len=1024), CPU, on) for on in (False, True))
    for step in (plain, cheap):
        assert step.peak >= step.frozen + step.trained + step.optimizer + step.activations
    assert cheap.activations < plain.activations / 3 and cheap.peak < plain.peak
    assert cheap.flops > 1.2 * plain.flops


def test_layers_that_repeat_are_counted_on(make_tiny_model: Callable[..., Path], monkeypatch: Any) -> None:
    path = make_tiny_model(**{**SHAPE, "num_hidden_layers": 20})
    args = arguments({"model_name_or_path": str(path), "dataset": "identity", "template": "chatml"})
    short = simulate(args, CPU, False)
    monkeypatch.setattr(simulation, "_MORE", 20)
    whole = simulate(args, CPU, False)
    for name in Step.__dataclass_fields__:
        if name != "seconds":
            assert getattr(short, name) == pytest.approx(getattr(whole, name), rel=0.01), name


def test_operations_are_those_of_the_matrix_products(base: dict[str, Any]) -> None:
    """Six operations a weight and token where all is trained, and attention (Kaplan et al. 2020, section 2.1)."""
    args = arguments(base, finetuning_type="full", bf16=False)
    tokens, length, d, layers = 2 * 256, 256, 128, 3
    step = simulate(args, CPU, False)
    head = planned_config(args).vocab_size * d
    products = 6 * tokens * (step.parameters - head) + 8 * tokens * head  # the head's logits are made twice
    attention = 7 * tokens * length * d * layers  # two products forward, five back, half of each is masked
    assert step.flops == pytest.approx(products + attention, rel=0.03)


RL = {"max_new_tokens": 64, "rollout_batch_size": 4}
GRPO = {"stage": "grpo", "finetuning_type": "full", "reward_funcs": "format", "num_generations": 2, **RL}


def weights_of(base: dict[str, Any]) -> int:
    """Elements of the tiny model, from its file."""
    with safe_open(Path(base["model_name_or_path"]) / "model.safetensors", "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def test_models_beside_the_policy_are_counted(base: dict[str, Any]) -> None:
    """A critic's run of all weights holds the policy in float32, its reference as it was, and the reward model."""
    keys = {"stage": "ppo", "finetuning_type": "full", "reward_model": base["model_name_or_path"], **RL}
    args = arguments(base, reward_model_type="full", bf16=True, **keys)
    parts, numbers = find_needs(args, CPU).parts, weights_of(base)
    assert parts["trained weights"] == parts["reference"] == 4 * numbers
    assert parts["reward model"] == 4 * (numbers + SHAPE["hidden_size"])  # with a row for the score
    # keys and values of two bytes, of two heads of 32 in three layers, for each token of four answers
    assert parts["rollouts"] == 2 * 2 * (2 * 32) * 3 * (256 + 64) * 4


@pytest.mark.parametrize(
    ("keys", "copies"),
    [
        ({"stage": "dpo", "finetuning_type": "full", "max_steps": 2}, True),
        ({"stage": "dpo", "finetuning_type": "full"}, False),  # scored before the first step, then let go
        ({"stage": "dpo", "finetuning_type": "full", "max_steps": 2, "pref_loss": "orpo"}, False),
        ({"stage": "dpo", "max_steps": 2}, False),  # below the adapter
        ({"stage": "kto", "finetuning_type": "freeze", "cache_ref_log_probs": False}, True),
        ({**GRPO, "beta": 0.0}, False),
        ({**GRPO, "beta": 0.1}, True),
    ],
)
def test_a_reference_of_its_own(base: dict[str, Any], keys: dict[str, Any], copies: bool) -> None:
    parts = find_needs(arguments(base, **keys), CPU).parts
    assert parts.get("reference") == (parts["trained weights"] if copies else None)


def test_a_named_reference_takes_what_its_bits_take(base: dict[str, Any]) -> None:
    keys = {"stage": "dpo", "ref_model": base["model_name_or_path"], "max_steps": 2, "bf16": True}
    whole, quantized = (
        find_needs(arguments(base, **keys, **more), CPU).parts["reference"]
        for more in ({}, {"ref_model_quantization_bit": 4})
    )
    args = arguments(base, ref_model_quantization_bit=4, **keys)
    model = load_model(load_tokenizer(args.model), reference_args(args), trainable=False, beside_training=True)
    assert whole == 4 * weights_of(base) and quantized == pytest.approx(bytes_of(model), rel=0.02)


def test_teachers_take_what_their_bits_take(base: dict[str, Any]) -> None:
    """Those of several sets once each; the student's answers only where it writes any."""
    name = base["model_name_or_path"]
    keys = {"stage": "gkd", "teacher_model_name_or_path": name, "bf16": True, **RL}
    parts = find_needs(arguments(base, **keys), CPU).parts
    assert parts["teachers"] == 4 * weights_of(base) and "rollouts" not in parts and "reference" not in parts
    two = find_needs(arguments(base, **keys, teacher_model={base["dataset"]: f"{name}/"}), CPU).parts
    assert two["teachers"] == 2 * parts["teachers"]
    assert "rollouts" in find_needs(arguments(base, **keys, gkd_lambda=0.5), CPU).parts
    quantized = find_needs(arguments(base, **keys, teacher_model_quantization_bit=4), CPU).parts
    assert quantized["teachers"] < parts["teachers"]


@pytest.mark.parametrize(
    ("text", "gib", "count", "known"),
    [("24GiB", 24, 1, False), ("h100", 80, 1, True), ("2xA100-80GB", 80, 2, True), ("RTX 4090", 24, 1, True)],
)
def test_devices(text: str, gib: float, count: int, known: bool) -> None:
    found = find_device(text)
    assert (found.device.memory_bytes, found.count, found.speed is not None) == (gib * GIB, count, known)


@pytest.mark.parametrize("text", ["huge", "0x24GiB", "24", ""])
def test_devices_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^device: expected"):
        find_device(text)


def test_what_does_not_fit_gets_the_nearest_that_does(base: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    keys = {**base, "cutoff_len": 4096, "per_device_train_batch_size": 8, "activation_checkpointing": False}
    run_plan({**keys, "device": "0.8GiB", "report_format": "json"})
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] is False and plan["peak_bytes"] > plan["available_bytes"]
    assert plan["peak_bytes"] == sum(plan["parts"].values())
    assert plan["alternatives"] and all(other["fits"] for other in plan["alternatives"])
    first = plan["alternatives"][0]["change"]
    run_plan({**keys, **first, "device": "0.8GiB", "report_format": "json"})
    assert json.loads(capsys.readouterr().out)["fits"] is True


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"finetuning_type": "shira"}, "finetuning_type: plan cannot compute a step of shira, which looks at values"),
        ({"finetuning_type": "waveft"}, "finetuning_type: plan cannot compute a step of waveft, which looks at values"),
        ({"optim": "adamw_torch_8bit"}, "optim: plan cannot compute a step of adamw_torch_8bit, which compiles itself"),
    ],
    ids=str,
)
def test_what_looks_at_values_is_named(base: dict[str, Any], keys: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}"):
        simulate(arguments(base, **keys), CPU, False)


FULL = {"finetuning_type": "full"}


@pytest.mark.parametrize(
    ("keys", "state"),
    [
        ({"optim": "schedule_free_adamw"}, 8.0),
        ({**FULL, "optim": "adamw_8bit"}, 2.03),  # docs/optimizers.md
        ({**FULL, "use_badam": True}, 8.0),
        ({"finetuning_type": "loha"}, 8.0),
    ],
    ids=str,
)
def test_bytes_of_state_a_trained_weight(base: dict[str, Any], keys: dict[str, Any], state: float) -> None:
    step = simulate(arguments(base, **keys), CPU, False)
    assert step.optimizer / step.parameters == pytest.approx(state, rel=0.01)
    assert step.gradients == step.trained == 4 * step.parameters


def test_weights_that_are_not_trained_at_the_time_have_no_gradients(base: dict[str, Any]) -> None:
    """BAdam trains a block; layer by layer a gradient is used and let go."""
    whole = simulate(arguments(base, **FULL), CPU, False)
    block = simulate(arguments(base, **FULL, use_badam=True), CPU, False)
    one_by_one = simulate(arguments(base, **FULL, use_galore=True, galore_layerwise=True), CPU, False)
    layers = SHAPE["num_hidden_layers"]
    outside = whole.parameters - layers * block.parameters  # embedding and norm
    assert 0 < outside < whole.parameters and block.peak < whole.peak
    assert one_by_one.gradients == 0 and one_by_one.peak < whole.peak


def test_a_table_for_eyes(base: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run_plan({**base, "device": "2xH100", "cutoff_len": 256})
    out = capsys.readouterr().out
    assert "it fits" in out and "each of 2 processes" in out and "gradient exchange" in out and "tokens/s" in out


@pytest.mark.slow
@pytest.mark.parametrize("row", ["small 2x512 finetuning_type=lora", "small 1x512 finetuning_type=full optim=sgd"])
def test_what_is_said_is_what_a_run_takes(smollm2: Path, row: str) -> None:
    """Peak resident memory of a real run by the kernel's count: within a tenth, and at most 3 % more than was said."""
    script = Path(__file__).parents[2] / "benchmarks" / "plan.py"
    found = []
    for rows in ([], ["--held-back"]):
        command = [sys.executable, str(script), "--smollm2", str(smollm2), "--only", row, *rows]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found += [float(number) for number in re.findall(r"\| ([+-][\d.]+)% \|", done.stdout)]
    assert found and all(-3.0 <= error <= 10.0 for error in found), found
