# SPDX-License-Identifier: Apache-2.0
"""What PEFT's methods do where one would guess otherwise, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llamafactory import plugins
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.adapter_config import LIVE, MERGED, REFUSED, STARTS_AS_BASE
from llamafactory.model.rank_schedule import RankSchedule
from llamafactory.model.reference import make_reference

IDS = torch.tensor([[5, 17, 80, 3, 44, 261, 9, 120]])
FIELDS: dict[str, dict[str, Any]] = {
    "adalora": {"init_r": 6, "target_r": 2},
    "c3a": {"block_size": 16},
    "fourierft": {"n_frequency": 20},
    "frod": {"progressbar": False},
    "gralora": {"r": 4},
    "road": {"group_size": 32},
    "shira": {"r": 8},
    "trainable_tokens": {"token_indices": [5, 17]},
    "vblora": {"num_vectors": 60, "vector_length": 32},
    "waveft": {"n_frequency": 20},
}
METHODS = sorted(kind.lower() for kind in {*MERGED, *LIVE})


def tuned(args: Any) -> Any:
    return load_model(load_tokenizer(args.model), args)


def keys_of(kind: str) -> dict[str, Any]:
    return {"finetuning_type": kind} | ({"peft_config": FIELDS[kind]} if kind in FIELDS else {})


def trained(model: Any) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits[:, -IDS.shape[1] :]


def test_every_method_of_the_installed_peft_has_a_row() -> None:
    assert {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING} == MERGED | {*LIVE} | {*REFUSED}
    assert {kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING} == {*plugins.TUNERS} - {"full", "freeze"}


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.filterwarnings("ignore")
def test_a_16_bit_base(kind: str, tiny_llama: Path, train_args: Any) -> None:
    """What is trained is float32 and gets a gradient; a fresh adapter is the base where we say so, bit for bit."""
    model = tuned(train_args(tiny_llama, bf16=True, kernels=False, **keys_of(kind)))
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert not any("ranknum" in name for name in trained)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16)
    assert torch.equal(logits(model), logits(base)) or kind.upper() not in STARTS_AS_BASE
    assert model.starts_as_base == (kind.upper() in STARTS_AS_BASE)
    model.train()
    model(input_ids=IDS, labels=IDS).logits.float().logsumexp(-1).sum().backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in trained.values())


@pytest.mark.parametrize("kind", ["fourierft", "vblora", "c3a", "hra"])
def test_the_reference_of_what_does_not_begin_as_the_base_is_a_copy(
    kind: str, tiny_llama: Path, train_args: Any
) -> None:
    """DPO's margin begins at 0, and switching the adapter off would not give that."""
    args = train_args(tiny_llama, stage="dpo", **keys_of(kind))
    policy = tuned(args)
    reference = make_reference(policy, load_tokenizer(args.model), args)
    assert reference is not None
    assert torch.equal(logits(reference), logits(policy))
    with policy.disable_adapter():
        assert not torch.equal(logits(reference), logits(policy))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"finetuning_type": "fourierft"}, "fourierft is not its base to the bit"),
        ({"use_dora": True}, "lora is not its base to the bit"),
        ({"pissa_init": True}, "lora (pissa_niter_16) is not its base to the bit"),
        ({}, None),
        ({"finetuning_type": "loha"}, None),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_what_does_not_begin_as_the_base_is_said(
    keys: dict[str, Any], said: str | None, tiny_llama: Path, train_args: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tuned(train_args(tiny_llama, **keys))
    lines = [record.getMessage() for record in caplog.records if "to the bit" in record.getMessage()]
    assert len(lines) == (said is not None) and all(str(said) in line for line in lines)


def test_layers_that_are_trained_whole_are_float32(tiny_llama: Path, train_args: Any) -> None:
    model = tuned(train_args(tiny_llama, bf16=True, finetuning_type="vera", additional_target="norm"))
    norms = [weight for name, weight in model.named_parameters() if weight.requires_grad and "norm" in name]
    assert norms and all(weight.dtype == torch.float32 for weight in norms)
    model(input_ids=IDS).logits.float().sum().backward()


def _step(model: Any, optimizer: Any, penalty: Any) -> None:
    loss = -model(input_ids=IDS).logits.log_softmax(-1)[0, :-1].gather(1, IDS[0, 1:, None]).mean()
    (loss + penalty()).backward()
    optimizer.step()


def test_the_ranks_of_adalora_are_those_of_peft_driven_by_hand(tiny_llama: Path, train_args: Any) -> None:
    """50 steps; PEFT's own loop beside ours, and PEFT's own penalty in its loss."""
    fields = {"init_r": 6, "target_r": 2, "tinit": 5, "tfinal": 10, "deltaT": 3, "lora_alpha": 32}
    ours = tuned(train_args(tiny_llama, finetuning_type="adalora", peft_config=fields, kernels=False)).train()
    schedule = RankSchedule(ours)
    theirs = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_llama),
        AdaLoraConfig(
            task_type="CAUSAL_LM",
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            total_step=50,
            **fields,
        ),
    ).train()
    start = {name: weight for name, weight in ours.named_parameters() if "lora_" in name}
    for name, weight in theirs.named_parameters():
        if "lora_" in name:
            weight.data.copy_(start[name])
    first, second = (torch.optim.AdamW([w for w in m.parameters() if w.requires_grad], lr=0.02) for m in (ours, theirs))
    state = SimpleNamespace(global_step=0, max_steps=50)
    schedule.on_train_begin(None, state, None)
    for number in range(50):
        state.global_step = number
        _step(ours, first, ours.get_base_model().penalty)
        schedule.on_optimizer_step(None, state, None)
        assert ours.peft_config["default"].rank_pattern is None, "a checkpoint keeps all ranks"
        theirs(input_ids=IDS, labels=IDS).loss.backward()
        second.step()
        theirs.base_model.update_and_allocate(number + 1)
        for optimizer in (first, second):
            optimizer.zero_grad()
    schedule.on_train_end(None, state, None)
    found, expected = (model.peft_config["default"].rank_pattern for model in (ours, theirs))
    assert found == expected
    ranks = [sum(kept) for kept in found.values()]
    assert sum(ranks) == 2 * len(ranks) and len({*ranks}) > 1, "the mean is target_r, and layers differ"
    for name, weight in theirs.named_parameters():
        if "lora_" in name:
            assert torch.allclose(ours.get_parameter(name), weight, atol=1e-5), name


def test_adalora_that_did_not_come_to_its_end_keeps_its_ranks(
    tiny_llama: Path, train_args: Any, tmp_path: Path
) -> None:
    model = tuned(
        train_args(tiny_llama, finetuning_type="adalora", peft_config={"init_r": 6, "target_r": 2, "deltaT": 2})
    )
    schedule = RankSchedule(model)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.02)
    state = SimpleNamespace(global_step=0, max_steps=50)
    schedule.on_train_begin(None, state, None)
    for state.global_step in range(5):
        _step(model, optimizer, model.get_base_model().penalty)
        schedule.on_optimizer_step(None, state, None)
        optimizer.zero_grad()
    schedule.on_train_end(None, state, None)
    model.save_pretrained(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert torch.allclose(logits(PeftModel.from_pretrained(base, tmp_path)), logits(model), atol=1e-6)


@pytest.mark.parametrize("kind", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_a_padded_prompt_is_answered_as_alone(kind: str, tiny_llama: Path, train_args: Any) -> None:
    """Logits and answers, wherever the padding is; the oracle is PEFT's own forward on one row without padding."""
    model = tuned(train_args(tiny_llama, finetuning_type=kind, peft_config={"num_virtual_tokens": 5})).eval()
    model.requires_grad_(False)
    short, long = [7, 9, 30], [4, 8, 15, 16, 23, 42]
    peft = super(type(model), model).forward if kind != "prefix_tuning" else model.forward
    alone = peft(input_ids=torch.tensor([short])).logits[0, -len(short) :]
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1] * 6])
    left = {"input_ids": torch.tensor([[1, 1, 1, *short], long]), "attention_mask": mask}
    right = {"input_ids": torch.tensor([[*short, 1, 1, 1], long]), "attention_mask": mask.flip(1)}
    if kind != "prefix_tuning":  # whose rows are padded on the right, but where positions are given
        assert torch.allclose(model(**left).logits[0, 3:], alone, atol=1e-5)
    assert torch.allclose(model(**right).logits[0, :3], alone, atol=1e-5)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    assert torch.allclose(model(**left, position_ids=positions).logits[0, 3:], alone, atol=1e-5)

    greedy = list(short)
    for _ in range(8):
        greedy.append(int(peft(input_ids=torch.tensor([greedy])).logits[0, -1].argmax()))
    options = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=1)
    assert model.generate(**left, generation_config=options)[0, 3:].tolist() == greedy
    beams = GenerationConfig(max_new_tokens=3, do_sample=False, pad_token_id=1, num_beams=2)
    assert model.generate(input_ids=torch.tensor([short]), generation_config=beams)[0, :3].tolist() == short


def test_a_prompt_of_words_begins_as_their_embeddings(tiny_llama: Path, train_args: Any) -> None:
    words = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "who are you", "num_virtual_tokens": 4}
    model = tuned(train_args(tiny_llama, finetuning_type="prompt_tuning", peft_config=words))
    ids = (AutoTokenizer.from_pretrained(tiny_llama)("who are you").input_ids * 4)[:4]
    rows = model.get_base_model().get_input_embeddings().weight[ids]
    assert torch.equal(model.get_prompt(1)[0], rows)


def test_oft_has_the_blocks_that_were_asked_for(tiny_llama: Path, train_args: Any) -> None:
    by_number = tuned(train_args(tiny_llama, finetuning_type="oft", oft_rank=4, oft_target="q_proj,down_proj"))
    sizes = {
        name: module.oft_block_size["default"] for name, module in by_number.named_modules() if hasattr(module, "oft_R")
    }
    assert {size for name, size in sizes.items() if name.endswith("q_proj")} == {16}
    assert {size for name, size in sizes.items() if name.endswith("down_proj")} == {32}
    by_size = tuned(train_args(tiny_llama, finetuning_type="oft", oft_block_size=8, module_dropout=0.1))
    assert {m.r["default"] for n, m in by_size.named_modules() if n.endswith("q_proj") and hasattr(m, "oft_R")} == {8}


def test_targets_by_expression_and_by_layer(tiny_llama: Path, train_args: Any) -> None:
    expression = {"target_modules": r".*\.1\.self_attn\.(q|v)_proj", "r": 4}
    names = {
        n
        for n, w in tuned(train_args(tiny_llama, finetuning_type="loha", peft_config=expression)).named_parameters()
        if w.requires_grad
    }
    assert names and all(".layers.1.self_attn." in name for name in names)
    second = {"layers_to_transform": [1], "r": 4}
    names = {
        n
        for n, w in tuned(train_args(tiny_llama, finetuning_type="hra", peft_config=second)).named_parameters()
        if w.requires_grad
    }
    assert len(names) == 7 and all(".layers.1." in name for name in names)


def test_new_tokens_are_the_rows_that_trainable_tokens_trains(tiny_llama: Path, train_args: Any) -> None:
    model = tuned(train_args(tiny_llama, finetuning_type="trainable_tokens", add_tokens="<a>,<b>", resize_vocab=True))
    (rows,) = [weight for weight in model.parameters() if weight.requires_grad]
    assert rows.shape == (2, 64)
