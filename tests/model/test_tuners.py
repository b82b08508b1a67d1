# SPDX-License-Identifier: Apache-2.0
"""What each tuner trains, merges and saves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from llamafactory.extras.errors import ConfigError
from llamafactory.model import generation_attention, load_model, load_tokenizer
from llamafactory.model.attention import implementation
from llamafactory.model.lora_linear import ExactLinear
from llamafactory.model.reference import frozen_copy

from .packing import sequences

LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
IDS = torch.stack(sequences([12, 12]))


def train(args):
    return load_model(load_tokenizer(args.model), args)


def trained(model) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def step(model, rate: float = 0.05) -> None:
    """A few updates that make every trained weight move."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=rate)
    for _ in range(3):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def save_peft_adapter(base: Path, folder: Path, seed: int, **keys) -> str:
    """An adapter made by PEFT alone, with random weights."""
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **keys))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return str(folder)


def test_full_trains_everything(tiny_llama, train_args):
    model = train(train_args(tiny_llama, finetuning_type="full"))
    assert isinstance(model, LlamaForCausalLM)
    assert trained(model) == {name for name, _ in model.named_parameters()}
    assert model.training and not model.config.use_cache


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"freeze_trainable_layers": 1}, "model.layers.3."),
        ({"freeze_trainable_layers": -1}, "model.layers.0."),
        ({"freeze_trainable_layers": 2, "freeze_trainable_modules": "mlp"}, "model.layers.2.mlp. model.layers.3.mlp."),
        (
            {"freeze_trainable_layers": 1, "freeze_trainable_modules": "self_attn,input_layernorm"},
            "model.layers.3.self_attn. model.layers.3.input_layernorm.",
        ),
        ({"freeze_trainable_layers": 1, "freeze_extra_modules": "norm"}, "model.layers.3. model.norm."),
        ({"freeze_trainable_layers": -4, "freeze_extra_modules": "embed_tokens,norm"}, "model."),
    ],
)
def test_freeze(keys, expected, make_tiny_model, train_args):
    folder = make_tiny_model(num_hidden_layers=4)
    model = train(train_args(folder, finetuning_type="freeze", **keys))
    names = {name for name, _ in model.named_parameters()}
    assert trained(model) == {name for name in names if name.startswith(tuple(expected.split()))}


def test_freeze_keeps_trained_weights_in_float32_over_a_bfloat16_model(tiny_llama, train_args):
    model = train(train_args(tiny_llama, finetuning_type="freeze", freeze_trainable_layers=1, bf16=True))
    kinds = {(weight.requires_grad, weight.dtype) for weight in model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"finetuning_type": "freeze", "freeze_trainable_layers": 9}, "9 asked, the model has 2 blocks"),
        ({"finetuning_type": "freeze", "freeze_trainable_layers": 0}, "freeze_trainable_layers: 0 trains nothing"),
        (
            {"finetuning_type": "freeze", "freeze_trainable_modules": "mpl"},
            "freeze_trainable_modules: mpl not found; choose from all, input_layernorm, mlp",
        ),
        (
            {"finetuning_type": "freeze", "freeze_extra_modules": "head"},
            "freeze_extra_modules: head not found; choose from embed_tokens, norm",
        ),
        (
            {"lora_target": "q_prj"},
            "lora_target: the model has no q_prj; choose from down_proj, embed_tokens, gate_proj, k_proj",
        ),
        ({"additional_target": "heads"}, "additional_target: the model has no heads; choose from "),
        ({"lora_rank": 0}, "lora_rank: expected 1 or more, got 0"),
        ({"lora_dropout": 1.0}, "lora_dropout: expected at least 0 and below 1"),
        ({"pissa_convert": True}, "pissa_convert: needs pissa_init"),
        ({"adapter_name_or_path": "./missing"}, "adapter_name_or_path: 'missing' does not exist"),
    ],
)
def test_what_is_said(keys, words, tiny_llama, train_args):
    with pytest.raises(ConfigError) as raised:
        train(train_args(tiny_llama, **keys))
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_an_adapter_of_another_model_is_refused(tiny_llama, make_tiny_model, train_args, tmp_path):
    other = make_tiny_model(hidden_size=32)
    adapter = save_peft_adapter(other, tmp_path / "a", 1, target_modules=["q_proj"])
    with pytest.raises(ConfigError, match="does not fit this model"):
        train(train_args(tiny_llama, adapter_name_or_path=adapter))


@pytest.mark.parametrize("target", ["all", "q_proj,v_proj"])
def test_lora_targets_and_defaults(target, tiny_llama, train_args):
    model = train(train_args(tiny_llama, lora_target=target, lora_rank=4))
    assert isinstance(model, PeftModel)
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained(model)}
    assert sorted(adapted) == (LINEAR if target == "all" else ["q_proj", "v_proj"])
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.task_type) == (4, 8, "CAUSAL_LM")
    assert all(".lora_" in name for name in trained(model))


def test_lora_variants_reach_peft(tiny_llama, train_args):
    model = train(train_args(tiny_llama, use_rslora=True, use_dora=True, lora_alpha=16, lora_rank=4, lora_dropout=0.1))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 16 / 4**0.5
    assert layer.use_dora["default"] and any("lora_magnitude_vector" in name for name in trained(model))
    assert layer.lora_dropout["default"].p == 0.1
    torch.testing.assert_close(logits(model), logits(AutoModelForCausalLM.from_pretrained(tiny_llama)))
    step(model)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_additional_target(bf16, tied, make_tiny_model, train_args, infer_args, tmp_path):
    folder = make_tiny_model(tie_word_embeddings=tied)
    model = train(train_args(folder, additional_target="embed_tokens,lm_head,norm", bf16=bf16))
    whole = {name for name in trained(model) if ".lora_" not in name}
    assert any("embed_tokens" in name for name in whole) and any(
        name.endswith("norm.modules_to_save.default.weight") for name in whole
    )
    assert all(weight.dtype == torch.float32 for weight in model.parameters() if weight.requires_grad)
    before, reference = logits(model), frozen_copy(model)
    step(model)
    after = logits(model)
    assert not torch.allclose(before, after, atol=1e-2)
    assert torch.equal(logits(reference), before)  # it has whole modules of its own
    model.save_pretrained(tmp_path / "a")
    args = infer_args(folder, adapter_name_or_path=str(tmp_path / "a"), infer_dtype="bfloat16" if bf16 else "float32")
    merged = load_model(load_tokenizer(args.model), args, trainable=False)
    torch.testing.assert_close(logits(merged), after, rtol=0, atol=0.05 if bf16 else 1e-5)


def test_adapters_are_merged_in_order(tiny_llama, train_args, infer_args, tmp_path):
    first = save_peft_adapter(tiny_llama, tmp_path / "a", 1, target_modules=["q_proj", "v_proj"])
    # A fully trained module makes the order visible: the last one wins.
    second = save_peft_adapter(tiny_llama, tmp_path / "b", 2, target_modules=["up_proj"], modules_to_save=["norm"])
    third = save_peft_adapter(tiny_llama, tmp_path / "c", 3, target_modules=["o_proj"], modules_to_save=["norm"])
    for folder, value in ((second, 2.0), (third, 3.0)):
        file = Path(folder) / "adapter_model.safetensors"
        state = load_file(file)
        state |= {key: torch.full_like(weight, value) for key, weight in state.items() if "norm" in key}
        save_file(state, file, metadata={"format": "pt"})

    def by_peft(*folders):
        model = AutoModelForCausalLM.from_pretrained(tiny_llama)
        for folder in folders:
            model = PeftModel.from_pretrained(model, folder).merge_and_unload()
        return model

    args = infer_args(tiny_llama, adapter_name_or_path=f"{first},{second},{third}")
    model = load_model(load_tokenizer(args.model), args, trainable=False)
    assert type(model) is LlamaForCausalLM and not hasattr(model, "peft_config")
    assert not trained(model) and not model.training and model.config.use_cache
    assert torch.equal(model.model.norm.weight, torch.full((64,), 3.0))
    torch.testing.assert_close(logits(model), logits(by_peft(first, second, third)), rtol=0, atol=1e-5)

    # Training on: all but the last are merged, the last one is trained further.
    model = train(train_args(tiny_llama, adapter_name_or_path=f"{first},{second},{third}"))
    assert {name.split(".")[6] for name in trained(model) if "lora" in name} == {"o_proj"}
    torch.testing.assert_close(logits(model), logits(by_peft(first, second, third)), rtol=0, atol=1e-5)
    merged = {name.replace(".base_layer", ""): weight for name, weight in model.base_model.model.named_parameters()}
    for name, weight in by_peft(first, second).named_parameters():
        if "norm" not in name:
            torch.testing.assert_close(merged[name], weight, rtol=0, atol=1e-6)

    # A fresh adapter: all are merged, the new one changes nothing yet.
    model = train(
        train_args(tiny_llama, adapter_name_or_path=f"{first},{second}", create_new_adapter=True, lora_rank=3)
    )
    assert model.peft_config["default"].r == 3 and list(model.peft_config) == ["default"]
    torch.testing.assert_close(logits(model), logits(by_peft(first, second)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rounds", [-1, 4])
@pytest.mark.parametrize("rslora", [False, True])
def test_pissa(rounds, rslora, tiny_llama, train_args, infer_args, tmp_path):
    from llamafactory.model.tuners.lora import save_final

    base = logits(AutoModelForCausalLM.from_pretrained(tiny_llama))
    patterns = {"rank_pattern": {"k_proj": 2, "up_proj": 3}, "alpha_pattern": {"k_proj": 7, "v_proj": 3}}
    args = train_args(
        tiny_llama, pissa_init=True, pissa_iter=rounds, pissa_convert=True, use_rslora=rslora, lora_rank=4,
        lora_target="q_proj,k_proj,v_proj,up_proj,embed_tokens", lora_alpha=6, peft_config=patterns,
        additional_target="norm",
    )  # fmt: skip
    model = train(args)
    torch.testing.assert_close(logits(model), base, rtol=0, atol=1e-4)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    singular = torch.linalg.svdvals(
        AutoModelForCausalLM.from_pretrained(tiny_llama).model.layers[0].self_attn.q_proj.weight
    )
    update = layer.get_delta_weight("default")
    torch.testing.assert_close(
        torch.linalg.svdvals(update)[:4], singular[:4], rtol=1e-4 if rounds == -1 else 0.1, atol=0
    )
    step(model)
    after = logits(model)
    assert not torch.allclose(after, base, atol=1e-3)

    save_final(model, str(tmp_path / "converted"), args)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), tmp_path / "converted")
    torch.testing.assert_close(logits(plain), after, rtol=0, atol=1e-4)
    assert plain.peft_config["default"].r == 8 and plain.peft_config["default"].init_lora_weights is True

    model.save_pretrained(tmp_path / "raw")  # a checkpoint: the residual is found again when loading
    serve = infer_args(tiny_llama, adapter_name_or_path=str(tmp_path / "raw"))
    torch.testing.assert_close(
        logits(load_model(load_tokenizer(serve.model), serve, trainable=False)), after, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_only_the_rows_of_new_tokens_are_trained_and_saved(
    bf16, tied, make_tiny_model, train_args, infer_args, tmp_path
):
    folder = make_tiny_model(vocab_size=20_000, tie_word_embeddings=tied)
    plain = train(train_args(folder, bf16=bf16))
    plain.save_pretrained(tmp_path / "plain")
    args = train_args(folder, bf16=bf16, add_special_tokens="<river>", add_tokens="wombat")
    tokenizer = load_tokenizer(args.model)
    new = sorted(tokenizer.convert_tokens_to_ids(["<river>", "wombat"]))
    model = load_model(tokenizer, args)
    ids = torch.tensor([[*new, *IDS[0].tolist(), *new]])
    embedding = model.get_input_embeddings().weight.detach().clone()
    head = model.get_output_embeddings().weight.detach().clone()

    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-2)
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for before, layer in ((embedding, model.get_input_embeddings()), (head, model.get_output_embeddings())):
        changed = (before != layer.weight).any(1).nonzero().flatten().tolist()
        assert changed == new
    masters = [
        weight for name, weight in model.named_parameters() if "trainable_tokens" in name and weight.requires_grad
    ]
    assert len(masters) == (1 if tied else 2) and all(weight.dtype == torch.float32 for weight in masters)
    with torch.no_grad():
        after = model.eval()(input_ids=ids).logits

    model.save_pretrained(tmp_path / "new")
    tokenizer.save_pretrained(tmp_path / "new")
    size, before = ((tmp_path / name / "adapter_model.safetensors").stat().st_size for name in ("new", "plain"))
    rows = 2 * 64 * 4 * (1 if tied else 2)
    assert rows <= size - before < rows + 4096

    # Nobody names the tokens again: the adapter brings tokenizer and size along.
    serve = infer_args(
        folder, adapter_name_or_path=str(tmp_path / "new"), infer_dtype="bfloat16" if bf16 else "float32"
    )
    again = load_tokenizer(serve.model)
    assert again("<river>")["input_ids"] == [tokenizer.convert_tokens_to_ids("<river>")]
    merged = load_model(again, serve, trainable=False)
    assert type(merged) is LlamaForCausalLM
    with torch.no_grad():
        served = merged(input_ids=ids).logits
    torch.testing.assert_close(served, after, rtol=0, atol=0.1 if bf16 else 1e-5)
    merged.save_pretrained(tmp_path / "exported")
    with torch.no_grad():
        stock = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype=merged.dtype).eval()
        assert torch.equal(stock(input_ids=ids).logits, served)

    # Training goes on from there.
    resumed = train(train_args(folder, bf16=bf16, adapter_name_or_path=str(tmp_path / "new")))
    with torch.no_grad():
        torch.testing.assert_close(resumed.eval()(input_ids=ids).logits, after, rtol=0, atol=0.1 if bf16 else 1e-5)
    assert any("trainable_tokens" in name for name in trained(resumed))


def test_the_embedding_grows_to_an_adapter_that_carries_all_of_it(tiny_llama, infer_args, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.resize_token_embeddings(450, mean_resizing=False)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    tuned = get_peft_model(model, config)
    tuned.save_pretrained(tmp_path / "a")
    serve = infer_args(tiny_llama, adapter_name_or_path=str(tmp_path / "a"))
    merged = load_model(load_tokenizer(serve.model), serve, trainable=False)
    assert torch.equal(merged.get_input_embeddings().weight[:450], tuned.get_input_embeddings().weight[:450])


def test_lora_layers_use_the_exact_sum(tiny_llama, train_args):
    model = train(train_args(tiny_llama))
    assert sum(isinstance(module, ExactLinear) for module in model.modules()) == 7 * 2


def test_generation_through_an_adapter(tiny_llama, train_args):
    model = train(train_args(tiny_llama)).eval()
    with generation_attention(model):
        assert implementation(model) == "sdpa"
        answer = model.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=4, do_sample=False)
    assert implementation(model) == "isolated"
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)
    expected = plain.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=4, do_sample=False)
    assert torch.equal(answer, expected)


@pytest.mark.parametrize(
    ("tied", "keys", "words"),
    [
        (True, {"lora_target": "q_proj,lm_head", "use_dora": True}, "use_dora: lm_head"),
        (True, {"additional_target": "lm_head"}, "additional_target: lm_head is tied to embed_tokens"),
        (True, {"lora_target": "q_proj,embed_tokens"}, "lora_target: embed_tokens"),
        (False, {"lora_target": "q_proj,lm_head"}, "lora_target: lm_head"),
        (False, {"lora_target": "q_proj", "additional_target": "q_proj", "add_tokens": None}, "finetuning_type: PEFT"),
        (True, {"lora_init": "eva"}, "lora_init: eva: PEFT takes the rows of the added tokens"),
        (True, {"lora_target": "lm_head", "pissa_init": True, "add_tokens": None}, "pissa_init: takes a part out of"),
        (True, {"lora_target": "lm_head", "lora_init": "lora_ga", "add_tokens": None}, "lora_init: lora_ga: takes a"),
    ],
)
def test_what_peft_cannot_put_together_is_one_line(tied, keys, words, make_tiny_model, train_args):
    args = train_args(make_tiny_model(tie_word_embeddings=tied), **{"add_tokens": "wombat", **keys})
    with pytest.raises(ConfigError, match=f"^{words}") as caught:
        train(args)
    assert "\n" not in str(caught.value)
