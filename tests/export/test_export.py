# SPDX-License-Identifier: Apache-2.0
"""Export against PEFT's own merge: per tensor, logits, files; and what happens when an export goes wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from llamafactory.export import export
from llamafactory.export.proof import ExportFailure
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args
from llamafactory.model import load_model, load_tokenizer, merging

IDS = torch.tensor([[5, 17, 80, 3, 44, 261, 9, 120]])
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Adapter = Callable[..., Path]


@pytest.fixture
def make_adapter(tmp_path: Path) -> Adapter:
    """``make_adapter(base, name, **LoraConfig)`` → folder of an adapter whose trained weights are random."""

    def make(base: Path, name: str = "adapter", **config: Any) -> Path:
        torch.manual_seed(len(name))
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        tuned = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": LINEAR, **config}))
        with torch.no_grad():
            for weight in tuned.parameters():
                if weight.requires_grad:
                    weight += 0.05 * torch.randn_like(weight)
        tuned.save_pretrained(tmp_path / name, save_embedding_layers=False)
        return tmp_path / name

    return make


def run(base: Path, out: Path, adapter: Path | str | None = None, **keys: Any) -> PreTrainedModel:
    """Export, and load the result as a stranger would."""
    named = {} if adapter is None else {"adapter_name_or_path": str(adapter)}
    export.run_export({"model_name_or_path": str(base), "template": "chatml", "export_dir": str(out), **named, **keys})
    return AutoModelForCausalLM.from_pretrained(out, dtype="auto").eval()


def with_adapter(base: Path, adapter: Path) -> PeftModel:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()


def assert_same(found: PreTrainedModel, expected: PreTrainedModel, atol: float = 2e-6) -> None:
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(
            ours[name], tensor, atol=atol, rtol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


def digest(folder: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.safetensors")))).hexdigest()


@pytest.mark.parametrize("share", [0.5, 1.0, 2.0])
def test_export_is_base_plus_adapter_at_every_shard_size(
    tiny_llama: Path, make_adapter: Adapter, tmp_path: Path, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, out = make_adapter(tiny_llama), tmp_path / "out"
    size = (tiny_llama / "model.safetensors").stat().st_size
    model = run(tiny_llama, out, adapter, export_size=share * size / 1e9)
    assert (len(list(out.glob("*.safetensors"))) > 1) == (share < 1)
    reference = with_adapter(tiny_llama, adapter)
    torch.testing.assert_close(logits(model), logits(reference), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(model), logits(AutoModelForCausalLM.from_pretrained(tiny_llama)), atol=1e-2)
    assert_same(model, reference.merge_and_unload())
    assert digest(out) != digest(tiny_llama)
    printed = capsys.readouterr().out
    assert "14 of them changed by it" in printed and "llamafactory-cli chat" in printed and str(out) in printed
    assert not list(tmp_path.glob(".out*"))
    manifest = json.loads((out / "run_manifest.json").read_text())
    assert manifest["config"]["model"]["adapter_name_or_path"] == str(adapter)
    assert manifest["export_proof"]["changed"] == 14
    assert manifest["export_proof"]["effect"] > 100 * manifest["export_proof"]["logits"]


@pytest.mark.parametrize(
    "config",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head"]},
        {"target_modules": ["q_proj"], "lora_bias": True},
        {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 2}},
        {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
        {"target_modules": ["q_proj", "lm_head"], "trainable_token_indices": {"embed_tokens": [5, 17]}},
    ],
    ids=lambda config: "-".join(f"{key}={value}" for key, value in config.items()),
)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_every_kind_of_adapter(
    make_tiny_model: Any, make_adapter: Adapter, tmp_path: Path, config: dict[str, Any], tied: bool
) -> None:
    base = make_tiny_model(kind="qwen2" if "lora_bias" in config else "llama", tie_word_embeddings=tied)
    adapter = make_adapter(base, **config)
    model = run(base, tmp_path / "out", adapter)
    expected = logits(with_adapter(base, adapter))  # not merged: what training computed
    torch.testing.assert_close(logits(model), expected, atol=2e-5, rtol=1e-5)
    assert not torch.allclose(expected, logits(AutoModelForCausalLM.from_pretrained(base)), atol=1e-3)


@pytest.mark.parametrize("target", [["q_proj"], ["q_proj", "down_proj"]], ids=["attention", "both"])
def test_an_adapter_brings_biases_to_a_base_without(
    target: list[str], tiny_llama: Path, make_adapter: Adapter, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_llama, target_modules=target, lora_bias=True)
    model = run(tiny_llama, tmp_path / "out", adapter)
    torch.testing.assert_close(logits(model), logits(with_adapter(tiny_llama, adapter)), atol=2e-5, rtol=1e-5)
    assert model.config.attention_bias and model.config.mlp_bias == ("down_proj" in target)


def test_biases_that_the_architecture_cannot_hold_are_one_line(
    make_tiny_model: Any, make_adapter: Adapter, tmp_path: Path
) -> None:
    base = make_tiny_model("qwen2")
    adapter = make_adapter(base, target_modules=["o_proj"], lora_bias=True)
    with pytest.raises(
        ConfigError, match=r"lora_bias gives model\.layers\.0\.self_attn\.o_proj a bias, .* qwen2 cannot"
    ):
        run(base, tmp_path / "out", adapter)
    assert not (tmp_path / "out").exists()
    args = get_infer_args(
        {"model_name_or_path": str(base), "adapter_name_or_path": str(adapter), "infer_dtype": "float32"}
    )
    served = load_model(load_tokenizer(args.model), args, trainable=False)
    torch.testing.assert_close(logits(served), logits(with_adapter(base, adapter)), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("parameters", [["experts.gate_up_proj", "experts.down_proj"], ["experts.down_proj"]])
def test_adapters_of_fused_experts(
    parameters: list[str], make_tiny_model: Any, make_adapter: Adapter, tmp_path: Path
) -> None:
    base = make_tiny_model("qwen3_moe", moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2)
    adapter = make_adapter(base, target_modules=["q_proj"], target_parameters=parameters)
    model = run(base, tmp_path / "out", adapter)
    torch.testing.assert_close(logits(model), logits(with_adapter(base, adapter)), atol=2e-5, rtol=1e-5)
    proof = json.loads((tmp_path / "out" / "run_manifest.json").read_text())["export_proof"]
    assert proof["unproven"] == [] and proof["changed"] == 2 * (1 + len(parameters))


def test_several_adapters_are_merged_in_order(tiny_llama: Path, make_adapter: Adapter, tmp_path: Path) -> None:
    first = make_adapter(tiny_llama, "one")
    second = make_adapter(tiny_llama, "second", use_dora=True, target_modules=["q_proj", "up_proj"])
    model = run(tiny_llama, tmp_path / "out", f"{first},{second}")
    base = with_adapter(tiny_llama, first).merge_and_unload()
    assert_same(model, PeftModel.from_pretrained(base, second).merge_and_unload())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_base_is_rounded_once(
    make_tiny_model: Any, make_adapter: Adapter, tmp_path: Path, dtype: str
) -> None:
    base = make_tiny_model()
    kind = getattr(torch, dtype)
    AutoModelForCausalLM.from_pretrained(base).to(kind).save_pretrained(base)
    adapter = make_adapter(base)
    model = run(base, tmp_path / "out", adapter)
    exact = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    expected = exact.merge_and_unload().to(kind)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == dtype
    same = total = 0
    for name, tensor in expected.state_dict().items():
        found = model.state_dict()[name]
        assert found.dtype == kind
        torch.testing.assert_close(found, tensor)
        same, total = same + int((found == tensor).sum()), total + tensor.numel()
    assert same / total > 0.999  # ties of the rounding may fall to either side


def test_infer_dtype_is_the_type_of_the_export(tiny_llama: Path, make_adapter: Adapter, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_llama)
    model = run(tiny_llama, tmp_path / "out", adapter, infer_dtype="bfloat16")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert_same(model, with_adapter(tiny_llama, adapter).merge_and_unload().to(torch.bfloat16), atol=1e-6)


def test_a_model_without_adapter_is_cut_and_cast(tiny_llama: Path, tmp_path: Path) -> None:
    model = run(tiny_llama, tmp_path / "out", finetuning_type="full")
    assert_same(model, AutoModelForCausalLM.from_pretrained(tiny_llama), atol=0)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_new_tokens_go_from_the_adapter_into_the_vocabulary(
    make_tiny_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], stored: torch.dtype
) -> None:
    base, adapter = make_tiny_model(), tmp_path / "adapter"
    AutoModelForCausalLM.from_pretrained(base, dtype=stored).save_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|a|>", "<|b|>"]})
    new = tokenizer.convert_tokens_to_ids(["<|a|>", "<|b|>"])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    config = LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": new})
    tuned = get_peft_model(model, config)
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight += torch.randn_like(weight)
    tuned.save_pretrained(adapter, save_embedding_layers=False)
    tokenizer.save_pretrained(adapter)
    rows = next(w for name, w in tuned.named_parameters() if "trainable_tokens_delta" in name)

    exported = run(base, tmp_path / "out", adapter, infer_dtype="float32")
    assert "by logits only" not in capsys.readouterr().out  # every tensor had its equation
    found = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert found.encode("<|b|>", add_special_tokens=False) == [new[1]]
    torch.testing.assert_close(exported.get_input_embeddings().weight[new], rows.detach(), atol=0, rtol=0)
    ids = torch.tensor([[5, new[0], 80, new[1]]])
    with torch.inference_mode():
        ours, theirs = exported(ids).logits, tuned.eval()(ids).logits
    known = [*range(400), *new]  # rows of padding are drawn at random and mean nothing
    torch.testing.assert_close(ours[..., known], theirs[..., known], atol=2e-5, rtol=1e-5)


def test_an_export_without_the_delta_is_caught(
    tiny_llama: Path, make_adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(merging, "_merge_layer", lambda name, layer, dtype: layer.merged_adapters.append("default"))
    with pytest.raises(ExportFailure, match=r"model\.layers\.0\.\S+\.weight is not base \+ adapter") as failure:
        run(tiny_llama, out, make_adapter(tiny_llama))
    assert "\n" not in str(failure.value) and failure.value.exit_code == 1
    assert not out.exists() and not list(tmp_path.glob(".out*"))


def test_a_saver_that_changes_one_weight_is_caught(
    tiny_llama: Path, make_adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = PreTrainedModel.save_pretrained

    def saver(self: PreTrainedModel, *args: Any, **options: Any) -> None:
        with torch.no_grad():
            self.model.norm.weight[7] += 1e-4
        save(self, *args, **options)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", saver)
    with pytest.raises(ExportFailure, match=r"model\.norm\.weight is not base \+ adapter"):
        run(tiny_llama, tmp_path / "out", make_adapter(tiny_llama))
    assert not (tmp_path / "out").exists()


def test_a_wrong_config_is_caught_by_the_logits(
    tiny_llama: Path, make_adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = PreTrainedModel.save_pretrained

    def saver(self: PreTrainedModel, *args: Any, **options: Any) -> None:
        self.config.rms_norm_eps = 0.1
        save(self, *args, **options)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", saver)
    with pytest.raises(ExportFailure, match="logits differ from base"):
        run(tiny_llama, tmp_path / "out", make_adapter(tiny_llama))
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_changes_nothing_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    untrained = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), LoraConfig(target_modules=LINEAR))
    untrained.save_pretrained(tmp_path / "untrained", save_embedding_layers=False)
    with pytest.raises(ExportFailure, match="the adapter changes nothing"):
        run(tiny_llama, tmp_path / "out", tmp_path / "untrained")
    assert not (tmp_path / "out").exists()


def test_values_that_do_not_fit_the_type_are_caught(make_tiny_model: Any, tmp_path: Path) -> None:
    base = make_tiny_model()
    model = AutoModelForCausalLM.from_pretrained(base)
    model.model.norm.weight.data[3] = 1e6
    model.save_pretrained(base)
    with pytest.raises(ExportFailure, match=r"model\.norm\.weight does not fit into torch\.float16"):
        run(base, tmp_path / "out", infer_dtype="float16")


def test_a_folder_that_holds_something_is_left_alone(tiny_llama: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"export_dir: \S+taken is not empty"):
        run(tiny_llama, taken)
    assert [path.name for path in taken.iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"export_dir: \S+file is a file"):
        run(tiny_llama, tmp_path / "file")
    (empty := tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    run(tiny_llama, tmp_path / "link")  # the folder it points at
    assert (tmp_path / "link").is_symlink() and (empty / "config.json").is_file()


@pytest.mark.parametrize(
    ("keys", "kind", "message"),
    [
        ({"export_dir": None}, ConfigError, "export_dir"),
        ({"export_quantization_bit": 4}, ConfigError, "export_quantization_dataset: missing"),
        ({"adapter_name_or_path": "/nowhere/adapter"}, ConfigError, "adapter_name_or_path"),
        ({"model_name_or_path": "/nowhere/model"}, ConfigError, "model_name_or_path"),
    ],
)
def test_wrong_keys_are_named(
    tiny_llama: Path, tmp_path: Path, keys: dict[str, Any], kind: type[ConfigError], message: str
) -> None:
    base = {"model_name_or_path": str(tiny_llama), "template": "chatml", "export_dir": str(tmp_path / "out")}
    with pytest.raises(kind, match=message):
        export.run_export(base | keys)
    assert not list(tmp_path.iterdir())


def test_legacy_format_is_a_notice(tiny_llama: Path, tmp_path: Path) -> None:
    run(tiny_llama, tmp_path / "out", export_legacy_format=True)
    assert not list((tmp_path / "out").glob("*.bin"))


def test_an_adapter_of_another_model_is_one_line(make_tiny_model: Any, make_adapter: Adapter, tmp_path: Path) -> None:
    adapter = make_adapter(make_tiny_model(hidden_size=32))
    with pytest.raises(ConfigError, match="adapter_name_or_path") as failure:
        run(make_tiny_model(), tmp_path / "out", adapter)
    assert "\n" not in str(failure.value)
    shutil.rmtree(adapter)


def test_the_hub_gets_everything_but_the_manifest(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    calls: dict[str, Any] = {}

    class Hub:
        def __init__(self, token: str | None) -> None:
            calls["token"] = token

        def whoami(self) -> None:
            calls["asked"] = True

        def create_repo(self, repo: str, exist_ok: bool) -> None:
            calls["repo"] = repo

        def upload_folder(self, repo_id: str, folder_path: str, ignore_patterns: list[str]) -> None:
            calls.update(upload=repo_id, files=sorted(path.name for path in Path(folder_path).iterdir()))
            calls["kept"] = ignore_patterns

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("llamafactory.extras.hub.look_for_hub", lambda: True)
    run(tiny_llama, tmp_path / "out", export_hub_model_id="me/model", hf_hub_token="hf_of_a_test")
    assert calls["token"] == "hf_of_a_test" and calls["repo"] == calls["upload"] == "me/model"
    assert {"model.safetensors", "config.json", "tokenizer.json", "Modelfile"} <= set(calls["files"])
    assert calls["kept"] == ["run_manifest.json"]
    assert "secret" not in (tmp_path / "out" / "run_manifest.json").read_text()
