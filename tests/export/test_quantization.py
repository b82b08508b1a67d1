# SPDX-License-Identifier: Apache-2.0
"""Quantized export: rounding against closed forms, files against compressed-tensors' own reader and transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamafactory.export import export
from llamafactory.export.proof import ExportFailure
from llamafactory.export.quantization import blocks, gptq, nearest, quantizer, tuning
from llamafactory.export.quantization.calibration import Calibration, write_own_text
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args
from llamafactory.model.grid import Float8Grid, Grid, IntGrid, Quantized

from .families import FAMILIES

IDS = torch.tensor([[5, 17, 80, 3, 44, 261, 9, 120]])
WORDS = ("rain", "river", "stone", "the", "five", "wizards", "count", "numbers", "stars", "of", "small", "lazy", "dogs")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen rows of words in random order."""
    generator = torch.Generator().manual_seed(1)
    picks = torch.randint(0, len(WORDS), (18, 30), generator=generator).tolist()
    path = tmp_path_factory.mktemp("data") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": " ".join(WORDS[i] for i in row)}) + "\n" for row in picks))
    return path


def correlated(tokens: int, width: int) -> torch.Tensor:
    """Inputs whose channels differ in size and depend on each other, as those of real layers do."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=generator) * torch.rand(width, generator=generator) ** 3
    return torch.randn(tokens, width // 4, generator=generator) @ mixing[: width // 4] + 0.1 * torch.randn(
        tokens, width, generator=generator
    )


def error(weight: torch.Tensor, values: torch.Tensor, inputs: torch.Tensor) -> float:
    return float((inputs @ (weight - values).T).square().sum())


@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_loses_less_than_rounding_to_nearest(bits: int) -> None:
    torch.manual_seed(0)
    weight, grid = torch.randn(48, 192), IntGrid(bits, 32)
    inputs, held_back = correlated(1024, 192).split(512)
    moments = inputs.T @ inputs / len(inputs)
    rounded = nearest.quantize(weight, moments, grid, torch.float32).values()
    ours = gptq.quantize(weight, moments, grid, torch.float32).values()
    for tokens in (inputs, held_back):
        assert error(weight, ours, tokens) < 0.5 * error(weight, rounded, tokens)


def test_a_few_huge_tokens_do_not_decide() -> None:
    """As in real models: the first token of each row has inputs a thousand times as large as the others."""
    torch.manual_seed(0)
    block, grid = torch.nn.Sequential(torch.nn.Linear(192, 48, bias=False)), IntGrid(4, 32)
    inputs, held_back = correlated(1024, 192).split(512)
    rows = []
    for tokens in inputs.split(64):
        tokens = torch.cat([1000 * torch.randn(1, 192), tokens])
        rows.append(blocks.Row(tokens[None], [((), {})]))
    weight = block[0].weight.detach()
    (shared,) = blocks.observe(block, rows, 0).inputs
    every = torch.cat([row.hidden[0] for row in rows])
    even = every / every.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(shared.moments, even.T @ even / len(even))
    rounded = nearest.quantize(weight, shared.moments, grid, torch.float32).values()
    ours = gptq.quantize(weight, shared.moments, grid, torch.float32).values()
    assert error(weight, ours, held_back) < 0.5 * error(weight, rounded, held_back)
    swamped = gptq.quantize(weight, every.T @ every / len(every), grid, torch.float32).values()
    assert error(weight, swamped, held_back) > 0.8 * error(weight, rounded, held_back)


def test_gptq_makes_errors_good_by_least_squares() -> None:
    """With two columns the answer is known: the second takes up what the first lost, then it is rounded itself."""
    torch.manual_seed(0)
    weight, inputs = torch.randn(200, 2), torch.randn(64, 2) @ torch.tensor([[2.0, 1.1], [0.0, 1.0]])
    moments = inputs.T @ inputs / len(inputs)
    assert moments[0, 0] > moments[1, 1]  # so the first column comes first
    grid = IntGrid(4, 2, search=False)
    quantized = gptq.quantize(weight, moments, grid, torch.float32)
    scale = weight.abs().amax(1) / 7.5
    first = (weight[:, 0] / scale).round().clamp(-8, 7)
    damped = moments[1, 1] + gptq.DAMPING * moments.diagonal().mean()
    wanted = weight[:, 1] + moments[0, 1] / damped * (weight[:, 0] - first * scale)
    second = (wanted / scale).round().clamp(-8, 7)
    assert torch.equal(quantized.codes, torch.stack([first, second], 1).to(torch.int8))
    assert not torch.equal(second, (weight[:, 1] / scale).round().clamp(-8, 7))


@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_is_exact_least_squares_at_every_step(symmetric: bool) -> None:
    """With the first columns fixed, the others are the solution of the normal equations, solved anew in float64."""
    torch.manual_seed(0)
    weight, inputs = torch.randn(24, 64), correlated(256, 64)
    moments = inputs.T @ inputs / len(inputs)
    grid = IntGrid(4, 32, symmetric)
    ours = gptq.quantize(weight, moments, grid, torch.float32)
    exact, hessian = weight.double(), moments.double()
    hessian += gptq.DAMPING * hessian.diagonal().mean() * torch.eye(64)
    scale = ours.scale.double().repeat_interleave(32, 1)
    zero = torch.zeros_like(scale) if ours.zero is None else ours.zero.double().repeat_interleave(32, 1)
    order, values, codes = moments.diagonal().argsort(descending=True), exact.clone(), exact.clone()
    for done, column in enumerate(order):
        fixed, left = order[:done], order[done:]
        spread = hessian[fixed][:, left] @ torch.linalg.inv(hessian[left][:, left])
        wanted = (exact[:, left] + (exact - values)[:, fixed] @ spread)[:, 0]
        code = (wanted / scale[:, column] + zero[:, column]).round().clamp(-8, 7)
        codes[:, column] = code
        values[:, column] = (code - zero[:, column]) * scale[:, column]
    differing = ours.codes.double() != codes
    assert differing.any(1).sum() <= 1  # a row in which rounding of float32 decided a tie goes on differently
    assert (ours.zero is None) == symmetric


@pytest.mark.parametrize("symmetric", [True, False])
def test_searched_ranges_cost_no_more_than_full_ones(symmetric: bool) -> None:
    torch.manual_seed(0)
    weight, importance = torch.randn(32, 128) ** 3 + 0.3, torch.rand(128) ** 2

    def costs(search: bool) -> torch.Tensor:
        grid = IntGrid(4, 32, symmetric, search)
        values = nearest.quantize(weight, torch.diag(importance), grid, torch.bfloat16).values().float()
        return ((weight - values).square() * importance).view(32, 4, 32).sum(-1)

    assert (costs(True) <= costs(False)).all()
    assert costs(True).sum() < 0.96 * costs(False).sum()


def test_a_searched_symmetric_range_has_its_longer_side_where_the_largest_weight_is() -> None:
    """Codes go from -8 to 7: a group whose largest weight is positive is mirrored, which costs no bit."""
    torch.manual_seed(0)
    weight = torch.randn(64, 32)
    largest = weight.gather(1, weight.abs().argmax(1, keepdim=True))
    found = nearest.quantize(weight, torch.eye(32), IntGrid(4, 32), torch.float32)
    assert torch.equal(found.scale.sign(), -largest.sign())
    mirrored = nearest.quantize(-weight, torch.eye(32), IntGrid(4, 32), torch.float32)
    assert torch.equal(mirrored.codes, found.codes) and torch.equal(mirrored.values(), -found.values())
    assert int(found.codes.amin()) == -8
    trained_for = nearest.quantize(weight, torch.eye(32), IntGrid(4, 32, search=False), torch.float32)
    assert (trained_for.scale > 0).all()


def test_a_zero_of_its_own_is_stored_as_the_format_says() -> None:
    """Words of 32 bits, read by hand: eight codes a word along a row, eight rows a word for the zeros; 8 is added."""
    torch.manual_seed(0)
    weight = torch.randn(16, 64) + torch.linspace(-3, 3, 16)[:, None]  # some groups lie on one side of 0
    grid = IntGrid(4, 32, symmetric=False)
    quantized = nearest.quantize(weight, torch.eye(64), grid, torch.float32)
    stored = grid.store(quantized)
    codes = [[word >> 4 * at & 15 for word in row for at in range(8)] for row in stored["weight_packed"].tolist()]
    zeros = [[word >> 4 * at & 15 for word in row] for row in stored["weight_zero_point"].tolist() for at in range(8)]
    levels = torch.tensor(codes) - torch.tensor(zeros).repeat_interleave(32, 1)
    values = levels * stored["weight_scale"].repeat_interleave(32, 1)
    assert torch.equal(values, quantized.values())
    groups = weight.view(16, 2, 32)
    span = groups.amax(-1).clamp(min=0) - groups.amin(-1).clamp(max=0)
    assert (values - weight).abs().mean() < 0.3 * (span / 15).mean()
    symmetric = nearest.quantize(weight, torch.eye(64), IntGrid(4, 32), torch.float32).values()
    assert (values - weight).square().sum() < 0.6 * (symmetric - weight).square().sum()


def test_gradients_of_scales_are_those_of_dense_weights() -> None:
    torch.manual_seed(0)
    quantized = nearest.quantize(torch.randn(12, 64), torch.eye(64), IntGrid(4, 32, symmetric=False), torch.float32)
    layer = torch.nn.Linear(64, 12)
    tuned = tuning.TunedLinear(quantized, layer)
    x, factor = torch.randn(2, 7, 64, requires_grad=True), torch.ones(12, 2, requires_grad=True)
    dense = (quantized.levels() * (quantized.scale * factor)[..., None]).flatten(1)
    expected = F.linear(x, dense, layer.bias).square().sum()
    wanted = torch.autograd.grad(expected, (x, factor, layer.bias))
    found = torch.autograd.grad(tuned(x).square().sum(), (x, tuned.factor, layer.bias))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_tuned_scales_bring_predictions_back(make_tiny_model: Any) -> None:
    """On rows that were not calibrated too; codes, zeros and all else of the model stay as they are."""
    folder = make_tiny_model(initializer_range=0.3)
    rows, others = (
        torch.randint(3, 300, (count, 32), generator=torch.Generator().manual_seed(count)) for count in (48, 8)
    )

    def quantized(epochs: int) -> tuple[Any, dict[str, Quantized]]:
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        layers, _ = quantizer.quantize_model(
            model, rows.tolist(), quantizer.METHODS["rtn"], IntGrid(4, 32, symmetric=False), epochs
        )
        return model, layers

    def divergence(model: Any, ids: torch.Tensor) -> float:
        with torch.inference_mode():
            found = model(ids).logits.log_softmax(-1)
        return float(F.kl_div(found, wanted[len(ids)], reduction="sum", log_target=True))

    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        wanted = {len(ids): whole(ids).logits.log_softmax(-1) for ids in (rows, others)}
    (plain, before), (tuned, after) = quantized(0), quantized(4)
    for ids in (rows, others):
        assert divergence(tuned, ids) < 0.99 * divergence(plain, ids)
    for name, layer in after.items():
        assert torch.equal(layer.codes, before[name].codes) and torch.equal(layer.zero, before[name].zero)
        assert torch.equal(tuned.get_submodule(name).weight, layer.values())
    rest = {name for name in tuned.state_dict() if name.removesuffix(".weight") not in after}
    assert all(torch.equal(tuned.state_dict()[name], whole.state_dict()[name]) for name in rest)
    assert all(weight.requires_grad for weight in tuned.parameters())


def test_the_models_own_text_starts_differently_and_is_as_long(tiny_llama: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
    given = Calibration([[5] * 40, [6] * 20], [[7] * 9])
    state = torch.get_rng_state()
    own = write_own_text(model, tokenizer, given, 0.9)
    assert (len(own.rows), len(own.held_back)) == (18, 2)
    rows = [*own.rows, *own.held_back]
    assert max(map(len, rows)) == 30 and len({tuple(row) for row in rows}) == 20
    assert len({row[0] for row in rows}) > 10 and not {row[0] for row in rows} & set(tokenizer.all_special_ids)
    assert all(tokenizer.eos_token_id not in row[:-1] for row in rows)
    assert write_own_text(model, tokenizer, given, 0.9) == own and torch.equal(torch.get_rng_state(), state)
    assert write_own_text(model, tokenizer, given, 0) == Calibration([], [])


def test_gptq_is_rounding_to_nearest_when_inputs_are_independent() -> None:
    torch.manual_seed(0)
    energy = torch.rand(64).round(decimals=1)  # some inputs are never there
    weight, there = torch.randn(16, 64), energy > 0
    assert not there.all()
    ours = gptq.quantize(weight, torch.diag(energy), IntGrid(4, 32), torch.float32)
    damped = energy + gptq.DAMPING * energy.where(there, 1.0).mean()
    wanted = nearest.quantize(weight, torch.diag(damped * there), IntGrid(4, 32), torch.float32)
    assert torch.equal(ours.scale, wanted.scale) and torch.equal(ours.codes, wanted.codes)


def test_gptq_chooses_ranges_by_what_cannot_be_made_good() -> None:
    """The cost of a column's error is a Schur complement: what a regression on the later columns leaves of it."""
    torch.manual_seed(0)
    weight, inputs, grid = torch.randn(24, 64), correlated(256, 64), IntGrid(4, 32)
    moments = inputs.T @ inputs / len(inputs)
    hessian, costs = moments.double(), torch.zeros(64)
    hessian += gptq.DAMPING * hessian.diagonal().mean() * torch.eye(64)
    order = moments.diagonal().argsort(descending=True)
    for done, column in enumerate(order):
        later = order[done + 1 :]
        taken = hessian[column, later] @ torch.linalg.inv(hessian[later][:, later]) @ hessian[later, column]
        costs[column] = hessian[column, column] - taken
    wanted, _ = grid.fit(weight, costs, torch.bfloat16)
    found = gptq.quantize(weight, moments, grid, torch.bfloat16).scale
    assert (found == wanted).float().mean() > 0.95  # float32 decides between two shares that are level
    assert (found == grid.fit(weight, moments.diagonal(), torch.bfloat16)[0]).float().mean() < 0.9


def test_gptq_names_the_key_when_inputs_are_not_finite() -> None:
    with pytest.raises(ConfigError, match="export_quantization_dataset"):
        gptq.quantize(torch.randn(4, 32), torch.full((32, 32), torch.nan), IntGrid(4, 32), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_within_half_a_step(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(32, 128) * torch.logspace(-3, 1, 32)[:, None]
    weight[3] = 0
    rounding, least = torch.finfo(dtype).eps / 2, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps / 2

    def allowed(half_step: torch.Tensor, scale: torch.Tensor, largest_code: float) -> torch.Tensor:
        """Half a step; what a rounded scale leaves out of reach at the end of the range; the product's rounding."""
        stored = scale * rounding + least
        return half_step + stored * largest_code + weight.abs() * rounding * 1.01 + least + weight.abs() * 1e-6

    for bits in (4, 8):
        scale = weight.abs().view(32, 2, 64).amax(-1).repeat_interleave(64, 1) / ((2**bits - 1) / 2)
        found = nearest.quantize(weight, torch.eye(128), IntGrid(bits, 64, search=False), dtype).values().float()
        assert ((found - weight).abs() <= allowed(scale / 2, scale, 2**bits)).all()
    # Three bits of mantissa: half a step is 1/16 of the value, or 2^-10 below the smallest normal number, 2^-6.
    scale = weight.abs().amax(1, keepdim=True) / 448
    found = nearest.quantize(weight, torch.eye(128), Float8Grid(), dtype).values().float()
    assert ((found - weight).abs() <= allowed(torch.maximum(weight.abs() / 16, scale * 2.0**-10), scale, 448)).all()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "phi3"])
@torch.no_grad()
def test_awq_folds_scales_without_changing_the_model(family: str, make_tiny_model: Any) -> None:
    """Norms that multiply by ``w`` and by ``1 + w``, biases, shared projections: found by trying, never by name."""
    config = FAMILIES[family]
    config.vocab_size = 400
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, weight in model.named_parameters():
        if "norm" in name or "bias" in name:
            weight += torch.rand_like(weight)
    rows = [torch.randint(3, 400, (length,)).tolist() for length in (12, 20, 9)]
    _, chain = blocks.find_blocks(model)
    on_the_way = blocks.start(model, chain, rows)
    block = blocks.observe(chain[0], on_the_way, 0)
    before, weights = block.outputs(40), {name: layer.weight.clone() for name, layer in block.layers.items()}
    grid = IntGrid(4, 32, search=False)

    def rounded() -> float:
        """The block's loss when all its layers are rounded; their weights are put back."""
        kept = {name: layer.weight.clone() for name, layer in block.layers.items()}
        for layer in block.layers.values():
            layer.weight.copy_(
                nearest.quantize(layer.weight, torch.eye(layer.in_features), grid, torch.float32).values()
            )
        loss = block.loss(before, 40)
        for name, layer in block.layers.items():
            layer.weight.copy_(kept[name])
        return loss

    plain = rounded()
    quantizer.awq.fold(block, grid, torch.float32)
    for ours, theirs in zip(block.outputs(40), before, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=1e-4)
    changed = {name for name, layer in block.layers.items() if not torch.equal(layer.weight, weights[name])}
    assert {name.rpartition(".")[2] for name in changed} & {"q_proj", "qkv_proj"}
    assert {name.rpartition(".")[2] for name in changed} & {"gate_proj", "gate_up_proj"}
    assert rounded() < plain


def run(base: Path, out: Path, texts: Path, method: str = "gptq", bits: int = 4, **keys: Any) -> Any:
    """Export, and load the result as a stranger would."""
    export.run_export(
        {
            "model_name_or_path": str(base),
            "template": "chatml",
            "export_dir": str(out),
            "export_quantization_bit": bits,
            "export_quantization_method": method,
            "export_quantization_dataset": str(texts),
            "export_quantization_nsamples": 16,
            "export_quantization_group_size": 32,
            **keys,
        }
    )
    return AutoModelForCausalLM.from_pretrained(out, dtype="auto").eval()


def fake_quantized(base: Path, texts: Path, method: str, bits: int, keep: dict[str, Any]) -> Any:
    """The base with quantized values in its ordinary layers; for FP8 with inputs rounded by token as well."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto").eval()
    args = get_infer_args(
        {
            "model_name_or_path": str(base),
            "template": "chatml",
            "export_quantization_bit": bits,
            "export_quantization_method": method,
            "export_quantization_dataset": str(texts),
            "export_quantization_nsamples": 16,
        }
    )
    tokenizer = AutoTokenizer.from_pretrained(base)
    calibration = export.read_calibration(args, tokenizer, None)  # type: ignore[arg-type]
    own = write_own_text(model, tokenizer, calibration, 0.5)
    grid: Grid = Float8Grid() if method == "fp8" else IntGrid(bits, 32, symmetric=bits == 8)
    epochs = quantizer.EPOCHS if bits == 4 and method != "rtn" else 0
    keep["layers"], _ = quantizer.quantize_model(
        model, [*calibration.rows, *own.rows], quantizer.METHODS[method], grid, epochs
    )
    if method == "fp8":
        for name, layer in model.named_modules():
            if name in keep["layers"]:
                layer.register_forward_pre_hook(lambda module, args: (rounded_by_token(args[0]),))
    return model


def rounded_by_token(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(-1, keepdim=True) / 448
    return (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale


@pytest.mark.parametrize(
    ("method", "bits", "dtype"),
    [
        ("gptq", 4, "bfloat16"),
        ("gptq", 8, "float32"),
        ("awq", 4, "float32"),
        ("rtn", 4, "float16"),
        ("fp8", 8, "float32"),
    ],
)
def test_the_folder_reads_back_as_what_was_quantized(
    make_tiny_model: Any, tmp_path: Path, texts: Path, method: str, bits: int, dtype: str, capsys: Any
) -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    base, out, keep = make_tiny_model(), tmp_path / "out", {}
    AutoModelForCausalLM.from_pretrained(base).to(getattr(torch, dtype)).save_pretrained(base)
    model = run(base, out, texts, method, bits)
    expected = fake_quantized(base, texts, method, bits, keep)
    with torch.inference_mode():
        ours, theirs = model(IDS).logits.float(), expected(IDS).logits.float()
    torch.testing.assert_close(ours, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=1e-4)
    # compressed-tensors' own decompressor, on the files themselves
    stored, settings = load_file(out / "model.safetensors"), json.loads((out / "config.json").read_text())
    config = QuantizationConfig.model_validate(settings["quantization_config"])
    assert config.ignore == ["lm_head"]
    reader = BaseCompressor.get_value_from_registry(config.format)
    assert len(keep["layers"]) == 14
    for name, quantized in keep["layers"].items():
        part = {key.rpartition(".")[2]: value for key, value in stored.items() if key.startswith(f"{name}.")}
        found = reader.decompress(part, config.config_groups["group_0"])["weight"]
        assert torch.equal(found, quantized.values()), name
        bytes_each = sum(value.numel() * value.element_size() for value in part.values()) / found.numel()
        assert bytes_each < bits / 8 + 0.2
    assert stored["model.embed_tokens.weight"].dtype == getattr(torch, dtype)
    # and what is said about it
    printed = capsys.readouterr().out
    figures = json.loads((out / "run_manifest.json").read_text())["quantization"]
    assert f"14 layers by {method} to {bits} bits" in printed and "Modelfile" not in printed
    assert figures["layers"] == 14 and 0 < figures["mean_error"] <= figures["worst_error"] < (
        0.2 if bits == 4 else 0.05
    )
    with torch.inference_mode():
        held = export.read_calibration(
            get_infer_args(
                {
                    "model_name_or_path": str(base),
                    "export_quantization_bit": 4,
                    "export_quantization_dataset": str(texts),
                    "export_quantization_nsamples": 16,
                }
            ),
            AutoTokenizer.from_pretrained(base),
            None,  # type: ignore[arg-type]
        ).held_back
        losses = [
            F.cross_entropy(model(torch.tensor([row])).logits[0, :-1].float(), torch.tensor(row[1:]), reduction="sum")
            for row in held
        ]
    perplexity = float((sum(losses) / sum(len(row) - 1 for row in held)).exp())
    assert figures["perplexity_after"] == pytest.approx(perplexity, rel=1e-4)


@pytest.mark.slow
def test_better_methods_lose_less(tiny_llama: Path, tmp_path: Path, texts: Path) -> None:
    def mean_error(method: str, bits: int) -> float:
        run(tiny_llama, tmp_path / f"{method}{bits}", texts, method, bits)
        return json.loads((tmp_path / f"{method}{bits}" / "run_manifest.json").read_text())["quantization"][
            "mean_error"
        ]

    rtn = mean_error("rtn", 4)
    assert mean_error("gptq", 4) < 0.8 * rtn
    assert mean_error("awq", 4) <= 1.01 * rtn  # it minds the outputs of blocks, not those of layers
    assert mean_error("rtn", 8) < 0.1 * rtn


def test_conversations_go_through_the_template(tiny_llama: Path, tmp_path: Path) -> None:
    chats = tmp_path / "chats.json"
    rows = [{"instruction": f"Count to {n}.", "output": " ".join(map(str, range(1, n)))} for n in range(4, 14)]
    chats.write_text(json.dumps(rows))
    out = tmp_path / "out"
    run(
        tiny_llama, out, chats, export_quantization_nsamples=8, export_quantization_maxlen=40,
        export_quantization_own_text=0,
    )  # fmt: skip
    figures = json.loads((out / "run_manifest.json").read_text())["quantization"]
    assert (figures["calibration_rows"], figures["held_back_rows"]) == (8, 1)
    tokenizer = AutoTokenizer.from_pretrained(out)
    args = get_infer_args({"model_name_or_path": str(out), "template": "chatml", "export_quantization_bit": 4,
                           "export_quantization_dataset": str(chats), "export_quantization_maxlen": 40,
                           "export_quantization_own_text": 0})  # fmt: skip
    template = export.get_template(tokenizer, args.data)
    calibration = export.read_calibration(args, tokenizer, template)
    decoded = [tokenizer.decode(ids) for ids in [*calibration.rows, *calibration.held_back]]
    assert len(set(decoded)) == 10 and all(len(ids) <= 40 for ids in calibration.rows)
    assert all(text.startswith("<|im_start|>user\nCount to ") for text in decoded)


def test_a_group_that_does_not_fit_is_halved_or_refused(
    make_tiny_model: Any, tmp_path: Path, texts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(make_tiny_model(intermediate_size=192), tmp_path / "halved", texts, "rtn", export_quantization_group_size=128)
    weights = json.loads((tmp_path / "halved" / "config.json").read_text())["quantization_config"]["config_groups"]
    assert weights["group_0"]["weights"]["group_size"] == 64
    with pytest.raises(ConfigError, match="64, 80 inputs, which groups of 32"):
        run(make_tiny_model(intermediate_size=80), tmp_path / "refused", texts, "rtn")
    assert not (tmp_path / "refused").exists() and not list(tmp_path.glob(".refused*"))


def test_an_adapter_is_merged_first(tiny_llama: Path, tmp_path: Path, texts: Path) -> None:
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), LoraConfig(target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight += 0.2
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    model = run(tiny_llama, tmp_path / "out", texts, "rtn", 8, adapter_name_or_path=str(tmp_path / "adapter"))
    with torch.inference_mode():
        with_adapter, without = tuned.eval()(IDS).logits, AutoModelForCausalLM.from_pretrained(tiny_llama)(IDS).logits
        ours = model(IDS).logits
    assert (ours - with_adapter).abs().max() < 0.1 * (without - with_adapter).abs().max()


@pytest.mark.parametrize(("method", "bits"), [("gptq", 4), ("gptq", 8), ("awq", 4), ("rtn", 8), ("fp8", 8), (None, 0)])
def test_every_export_answers_everywhere_as_transformers_does(
    make_tiny_model: Any, tmp_path: Path, texts: Path, method: str | None, bits: int
) -> None:
    """Export, then chat, api, infer and eval of the folder."""
    from fastapi.testclient import TestClient

    from llamafactory.api.app import create_app
    from llamafactory.chat.batch_inference import run_infer
    from llamafactory.chat.chat_model import ChatModel
    from llamafactory.eval.evaluator import run_eval

    out, base = tmp_path / "out", make_tiny_model(initializer_range=0.3)
    if method:
        # Text of this random model is what rounding disturbs most: its perplexity grows beyond what is allowed.
        expected = run(base, out, texts, method, bits, export_quantization_own_text=0)
    else:
        export.run_export({"model_name_or_path": str(base), "template": "chatml", "export_dir": str(out)})
        expected = AutoModelForCausalLM.from_pretrained(out, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    question = [{"role": "user", "content": "Count the stars"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = expected.generate(**prompt, max_new_tokens=8, do_sample=False)
    wanted = tokenizer.decode(written[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert wanted.strip()
    keys = {"model_name_or_path": str(out), "template": "chatml", "infer_dtype": "float32", "max_new_tokens": 8,
            "do_sample": False}  # fmt: skip

    model = ChatModel(get_infer_args(keys))
    assert model.chat(question)[0].response_text == wanted
    client = TestClient(create_app(model), base_url="http://127.0.0.1")
    name = client.get("/v1/models").json()["data"][0]["id"]
    answer = client.post("/v1/chat/completions", json={"model": name, "messages": question})
    assert answer.json()["choices"][0]["message"]["content"] == wanted

    (tmp_path / "asked.json").write_text(json.dumps([{"instruction": "Count the stars", "output": ""}]))
    saved = tmp_path / "answers.jsonl"
    run_infer({**keys, "dataset": str(tmp_path / "asked.json"), "save_name": str(saved)})
    assert json.loads(saved.read_text())["predict"] == wanted

    quiz = tmp_path / "tasks" / "quiz"
    (quiz / "data" / "test").mkdir(parents=True)
    (quiz / "mapping.json").write_text(json.dumps({"sums": {"name": "sums", "category": "STEM"}}))
    (quiz / "data" / "test" / "sums_test.csv").write_text("1 + 1,2,3,4,5,A\n")
    run_eval({**{key: keys[key] for key in ("model_name_or_path", "template", "infer_dtype")}, "task": "quiz_test",
              "task_dir": str(tmp_path / "tasks"), "n_shot": 0, "save_dir": str(tmp_path / "figures")})  # fmt: skip
    assert json.loads((tmp_path / "figures" / "results.json").read_text())["quiz_test"]["questions"] == 1


def test_shards_and_gguf_beside_quantized_weights(tiny_llama: Path, tmp_path: Path, texts: Path) -> None:
    run(tiny_llama, tmp_path / "out", texts, "rtn", export_size=1e-4, export_gguf="f32")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors.index.json", "out-F32.gguf", "Modelfile"} <= names and "model.safetensors" not in names
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index.values()) == {name for name in names if name.endswith(".safetensors")}


@pytest.mark.parametrize("change", [0, 1])
def test_a_broken_result_is_not_published(
    tiny_llama: Path, tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    if change:  # every model has grown beyond nothing
        monkeypatch.setattr(quantizer, "LARGEST_GROWTH", {4: 0.0})
        expected = r"perplexity grew from \d\S* to \d\S* on the rows held back \(allowed: 0 times\)"
    else:  # the packed words are not those of the codes

        def packed(self: IntGrid, quantized: Any, store: Callable[..., Any] = IntGrid.store) -> Any:
            tensors = store(self, quantized)
            tensors["weight_packed"][1, 1] ^= 16
            return tensors

        monkeypatch.setattr(IntGrid, "store", packed)
        expected = r"model\.layers\.0\.\S+\.weight is not what was quantized"
    with pytest.raises(ExportFailure, match=expected) as failure:
        run(tiny_llama, tmp_path / "out", texts, "rtn")
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"method": "fp8", "bits": 8, "export_quantization_symmetric": False},
            "export_quantization_symmetric: false, but the floats of export_quantization_method fp8 have no zeros",
        ),
        (
            {"method": "fp8", "bits": 8, "export_quantization_epochs": 1},
            "export_quantization_epochs: only integers are tuned, not export_quantization_method fp8",
        ),
        ({"export_quantization_epochs": -1}, "export_quantization_epochs: expected 0 or more, got -1"),
        ({"export_quantization_own_text": 1}, "export_quantization_own_text: expected at least 0 and below 1, got 1"),
        ({"bits": 3}, "export_quantization_bit: expected 4 or 8, got 3"),
        ({"method": "fp8"}, "export_quantization_bit: 4, but export_quantization_method fp8 has 8"),
        ({"method": "best"}, "export_quantization_method"),
        ({"bits": None}, "export_quantization_bit: missing"),
        ({"export_quantization_dataset": None}, "export_quantization_dataset: missing"),
        ({"export_quantization_group_size": 100}, "export_quantization_group_size: expected 32, 64 or 128, got 100"),
        ({"export_quantization_nsamples": 0}, "export_quantization_nsamples: expected 1 or more, got 0"),
        ({"export_quantization_dataset": "./none.jsonl"}, "none.jsonl: no such file"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "-".join(value),
)
def test_mistakes_are_named(tiny_llama: Path, tmp_path: Path, texts: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as failure:
        run(tiny_llama, tmp_path / "out", texts, **keys)
    assert message in str(failure.value) and "\n" not in str(failure.value)
    assert not (tmp_path / "out").exists()


def test_experts_in_one_tensor_are_refused(tiny_llama: Path, tmp_path: Path, texts: Path, make_tiny_model: Any) -> None:
    base = make_tiny_model("qwen3_moe", moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2)
    with pytest.raises(ConfigError, match="qwen3_moe keeps its experts in one tensor"):
        run(base, tmp_path / "out", texts, "rtn")
    assert not (tmp_path / "out").exists()


def test_one_row_is_not_enough(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "same.jsonl").write_text('{"text": "the same row"}\n' * 5)
    with pytest.raises(ConfigError, match="holds 1 different rows"):
        run(tiny_llama, tmp_path / "out", tmp_path / "same.jsonl")


def test_four_bits_of_a_real_model(smollm2: Path, tmp_path: Path) -> None:
    """Real weights and inputs: the first two blocks of thirty."""
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype="auto", num_hidden_layers=2)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    data = json.loads((Path(__file__).parents[2] / "data" / "alpaca_en_demo.json").read_text())
    rows = [tokenizer(row["output"])["input_ids"][:64] for row in data[:16]]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    errors = {}
    for method in ("rtn", "gptq"):
        model.load_state_dict(state)
        _, found = quantizer.quantize_model(model, rows, quantizer.METHODS[method], IntGrid(4, 64))
        errors[method] = sum(found.values()) / len(found)
    assert errors["gptq"] < 0.8 * errors["rtn"]
    assert errors["rtn"] < 0.15
