# SPDX-License-Identifier: Apache-2.0
"""Scripts that convert: the model that is written computes what the one before does, by other code than ours."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer

IDS = torch.tensor([[5, 17, 80, 3, 44, 261, 9, 120]])
Run = Any


@torch.no_grad()
def logits(model: Any) -> Tensor:
    if isinstance(model, str | Path):
        model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return model.eval()(input_ids=IDS).logits


def begun(said: str) -> Any:
    """The model of a run with the lines that a script printed."""
    keys = yaml.safe_load(said.partition("Train with:")[2])
    args = get_train_args({**keys, "dataset": "none", "bf16": False, "output_dir": "run"})
    return load_model(load_tokenizer(args.model), args)


def test_pissa_takes_the_principal_part_out(run: Run, tiny_llama: Path, tmp_path: Path) -> None:
    said = run("pissa_init.py", tiny_llama, "out", "--pissa_iter", -1, "--lora_rank", 4, "--lora_alpha", 8)
    base = AutoModelForCausalLM.from_pretrained("out")
    name = "model.layers.0.mlp.up_proj.weight"
    whole, rest = (load_file(folder / "model.safetensors")[name].double() for folder in (tiny_llama, Path("out")))
    values = torch.linalg.svdvals(whole)
    # What is left has the singular values after the fourth, and no others.
    assert torch.allclose(torch.linalg.svdvals(rest)[:-4], values[4:], atol=1e-4)
    assert not torch.allclose(logits(base), logits(tiny_llama), atol=1e-3)
    both = PeftModel.from_pretrained(base, "out/pissa_init")
    assert both.peft_config["default"].init_lora_weights is True and both.peft_config["default"].lora_alpha == 8
    torch.testing.assert_close(logits(both), logits(tiny_llama), atol=2e-5, rtol=0)
    torch.testing.assert_close(logits(begun(said)), logits(tiny_llama), atol=2e-5, rtol=0)


def test_loftq_is_nearer_than_rounding_alone(run: Run, tiny_llama: Path) -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    said = run("loftq_init.py", tiny_llama, "out", "--loftq_iter", 3, "--lora_rank", 8)
    base, adapter = load_file("out/model.safetensors"), load_file("out/loftq_init/adapter_model.safetensors")
    config = json.loads(Path("out/loftq_init/adapter_config.json").read_text())
    whole = load_file(tiny_llama / "model.safetensors")

    def rounded(weight: Tensor) -> Tensor:
        return functional.dequantize_4bit(*functional.quantize_4bit(weight, quant_type="nf4", blocksize=64))

    checked = 0
    for name, weight in whole.items():
        if not name.endswith("_proj.weight"):
            assert torch.equal(base[name], weight)
            continue
        plain = f"base_model.model.{name.removesuffix('.weight')}"
        product = adapter[f"{plain}.lora_B.weight"] @ adapter[f"{plain}.lora_A.weight"]
        product = product * config["lora_alpha"] / config["r"]
        torch.testing.assert_close(rounded(base[name]), base[name], atol=1e-6, rtol=1e-5)  # it is rounded already
        assert (weight - base[name] - product).norm() < 0.9 * (weight - rounded(weight)).norm()
        checked += 1
    assert checked == 14
    plain = f"Train with:\nmodel_name_or_path: {tiny_llama}\nquantization_bit: 4\ndouble_quantization: false"
    far = (logits(begun(plain)) - logits(tiny_llama)).norm()
    assert (logits(begun(said)) - logits(tiny_llama)).norm() < 0.8 * far


def test_there_and_back_is_the_same_model(run: Run, tiny_llama: Path) -> None:
    assert run("hf2dcp.py", tiny_llama, "dcp").startswith("20 tensors")
    run("dcp2hf.py", "--dcp_path", "dcp", "--hf_path", "back", "--config_path", tiny_llama, "--shard_size", "100KB")
    assert len(list(Path("back").glob("model-*.safetensors"))) > 1
    assert torch.equal(logits("back"), logits(tiny_llama))


def test_a_trainers_checkpoint_with_its_optimizer_is_read(run: Run, refused: Run, tiny_llama: Path) -> None:
    """As Accelerate writes them: the model under a name, and what else there is beside it."""
    import torch.distributed.checkpoint as dcp

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    state = {"model": model.state_dict(), "optimizer": {"lr": 0.1, "step": torch.ones(2)}}
    dcp.save(state, checkpoint_id="dcp", no_dist=True)
    run("dcp2hf.py", "dcp", "back", tiny_llama)
    assert torch.equal(logits("back"), logits(tiny_llama))
    assert "is there already" in refused("dcp2hf.py", "dcp", "back", tiny_llama)
    dcp.save({"model": {"other": torch.ones(2)}}, checkpoint_id="other", no_dist=True)
    assert refused("dcp2hf.py", "other", "new", tiny_llama) == (
        "dcp_path: it holds other tensors than the model: model.other"
    )


def test_no_code_of_a_file_is_run(refused: Run, tiny_llama: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, ("evil",)

    Path("dcp").mkdir()
    Path("dcp/.metadata").write_bytes(pickle.dumps(Evil()))
    assert "it asks for posix.mkdir" in refused("dcp2hf.py", "dcp", "new", tiny_llama)
    assert not Path("evil").exists() and not Path("new").exists()


QWEN = {
    "model_type": "qwen", "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 300,
    "num_attention_heads": 4, "kv_channels": 8, "seq_length": 128, "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000,
    "no_bias": True, "tie_word_embeddings": False,
}  # fmt: skip
BAICHUAN = {
    "model_type": "baichuan", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 300,
    "num_attention_heads": 4, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
}  # fmt: skip


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=draw) * 0.2 for name, shape in shapes.items()}


def block(x: Tensor, w: dict[str, Tensor], heads: int) -> Tensor:
    """One block as both families' code has it, in float64: ``x [T, d]``."""
    length, width = x.shape

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight

    def turn(x: Tensor) -> Tensor:
        size = x.shape[-1]
        angle = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, size, 2).double() / size)
        first, second = x[..., : size // 2], x[..., size // 2 :]
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    q, k, v = (norm(x, w["norm1"]) @ w["qkv"].T + w.get("bias", 0)).split(width, -1)
    q, k, v = (part.view(length, heads, -1) for part in (q, k, v))
    scores = torch.einsum("qhd,khd->hqk", turn(q), turn(k)) / (width // heads) ** 0.5
    mask = torch.full((length, length), -torch.inf, dtype=torch.double).triu(1)
    x = x + torch.einsum("hqk,khd->qhd", (scores + mask).softmax(-1), v).reshape(length, width) @ w["out"].T
    y = norm(x, w["norm2"])
    return x + (y @ w["up"].T * F.silu(y @ w["gate"].T)) @ w["down"].T


def test_the_first_qwen_is_a_llama(run: Run, refused: Run) -> None:
    d, f = 32, 48
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (300, d), "transformer.ln_f.weight": (d,),
                                          "lm_head.weight": (300, d)}  # fmt: skip
    for number in range(2):
        place = f"transformer.h.{number}"
        shapes |= {
            f"{place}.ln_1.weight": (d,), f"{place}.ln_2.weight": (d,), f"{place}.attn.c_attn.weight": (3 * d, d),
            f"{place}.attn.c_attn.bias": (3 * d,), f"{place}.attn.c_proj.weight": (d, d),
            f"{place}.mlp.w1.weight": (f, d), f"{place}.mlp.w2.weight": (f, d), f"{place}.mlp.c_proj.weight": (d, f),
        }  # fmt: skip
    state = random_weights(shapes)
    Path("qwen").mkdir()
    torch.save(state, "qwen/pytorch_model.bin")
    Path("qwen/config.json").write_text(json.dumps(QWEN))
    Path("qwen/qwen.tiktoken").write_text("its tokens")
    run("convert_ckpt/llamafy_qwen.py", "qwen", "llama", "--shard_size", "20KB")
    w = {name: value.double() for name, value in state.items()}
    x = w["transformer.wte.weight"][IDS[0]]
    for number in range(2):
        of = lambda name, number=number: w[f"transformer.h.{number}.{name}"]  # noqa: E731
        x = block(x, {
            "norm1": of("ln_1.weight"), "norm2": of("ln_2.weight"), "qkv": of("attn.c_attn.weight"),
            "bias": of("attn.c_attn.bias"), "out": of("attn.c_proj.weight"), "up": of("mlp.w1.weight"),
            "gate": of("mlp.w2.weight"), "down": of("mlp.c_proj.weight"),
        }, 4)  # fmt: skip
    x = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * w["transformer.ln_f.weight"]
    torch.testing.assert_close(logits("llama")[0].double(), x @ w["lm_head.weight"].T, atol=1e-4, rtol=1e-4)
    assert Path("llama/qwen.tiktoken").read_text() == "its tokens"
    assert "expected a config.json of model_type baichuan" in refused("convert_ckpt/llamafy_baichuan2.py", "qwen", "no")


def test_baichuan_2_is_a_llama_whose_head_has_rows_of_length_1(run: Run, refused: Run) -> None:
    d, f = 32, 48
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (300, d), "model.norm.weight": (d,),
                                          "lm_head.weight": (300, d)}  # fmt: skip
    for number in range(2):
        place = f"model.layers.{number}"
        shapes |= {
            f"{place}.input_layernorm.weight": (d,), f"{place}.post_attention_layernorm.weight": (d,),
            f"{place}.self_attn.W_pack.weight": (3 * d, d), f"{place}.self_attn.o_proj.weight": (d, d),
            f"{place}.mlp.up_proj.weight": (f, d), f"{place}.mlp.gate_proj.weight": (f, d),
            f"{place}.mlp.down_proj.weight": (d, f),
        }  # fmt: skip
    state = random_weights(shapes)
    Path("bai").mkdir()
    save_file(state, "bai/model.safetensors")
    Path("bai/config.json").write_text(json.dumps(BAICHUAN))
    run("convert_ckpt/llamafy_baichuan2.py", "--input_dir", "bai", "--output_dir", "llama")
    w = {name: value.double() for name, value in state.items()}
    x = w["model.embed_tokens.weight"][IDS[0]]
    for number in range(2):
        of = lambda name, number=number: w[f"model.layers.{number}.{name}.weight"]  # noqa: E731
        x = block(x, {
            "norm1": of("input_layernorm"), "norm2": of("post_attention_layernorm"), "qkv": of("self_attn.W_pack"),
            "out": of("self_attn.o_proj"), "up": of("mlp.up_proj"), "gate": of("mlp.gate_proj"),
            "down": of("mlp.down_proj"),
        }, 4)  # fmt: skip
    x = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * w["model.norm.weight"]
    head = w["lm_head.weight"] / w["lm_head.weight"].norm(dim=1, keepdim=True)
    torch.testing.assert_close(logits("llama")[0].double(), x @ head.T, atol=1e-4, rtol=1e-4)
    thirteen = {name: value for name, value in BAICHUAN.items() if name != "max_position_embeddings"}
    Path("bai/config.json").write_text(json.dumps(thirteen))
    assert "ALiBi" in refused("convert_ckpt/llamafy_baichuan2.py", "bai", "no")


def test_megatron_is_asked_for_by_name(refused: Run, tiny_llama: Path) -> None:
    """What converts needs GPUs; here it is one line, unless the package is there."""
    line = refused("megatron_merge.py", tiny_llama, "out")
    assert line.endswith("needs the package megatron.bridge; pip install megatron-bridge")
    assert "are of no sizes" in refused("megatron_merge.py", "a", "b", "--tensor_model_parallel_size", 2)


def test_the_direction_is_that_of_the_input(run: Run, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls that are made; their names and keywords are those of megatron-bridge 0.3.1."""
    calls: list[Any] = []

    class Bridge:
        @classmethod
        def import_ckpt(cls, hf_model_id: Any, megatron_path: Any, **kwargs: Any) -> None:
            calls.append(("import", hf_model_id, megatron_path, kwargs))

        @classmethod
        def from_hf_pretrained(cls, path: Any, **kwargs: Any) -> Any:
            calls.append(("of", path, kwargs))
            return cls()

        def export_ckpt(self, megatron_path: Any, hf_path: Any, show_progress: bool = True, strict: bool = False,
                        source_path: Any = None) -> None:  # fmt: skip
            calls.append(("export", megatron_path, hf_path, strict))

    for name in ("megatron", "megatron.bridge"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["megatron.bridge"].AutoBridge = Bridge  # type: ignore[attr-defined]
    run("megatron_merge.py", tiny_llama, "mega", "--bf16", "true")
    Path("iter_1").mkdir()
    run("megatron_merge.py", "iter_1", "hf", "--config_path", tiny_llama)
    assert calls == [
        ("import", str(tiny_llama), "mega", {"torch_dtype": "bfloat16"}),
        ("of", str(tiny_llama), {"torch_dtype": "auto"}),
        ("export", "iter_1", "hf", True),
    ]  # fmt: skip
