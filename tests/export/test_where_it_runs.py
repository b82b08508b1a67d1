# SPDX-License-Identifier: Apache-2.0
"""What an export says of other programs; `make test-engines` asks them."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from engines.settings import ORIGINAL, SETTINGS, SHAPE, WINDOW
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import CONFIG_MAPPING, AutoConfig

from llamafactory.export.export import run_export
from llamafactory.export.ollama import context_length
from llamafactory.export.readers import (
    NOT_CHECKED,
    NOT_RUN,
    RIGHT,
    SETTING,
    Verdict,
    find_rule,
    read_rules,
    unusual,
    verdicts,
    words,
)
from llamafactory.extras.errors import ConfigError
from llamafactory.model.checkpointing import activation_bytes
from llamafactory.model.config import attention_width
from llamafactory.model.older_readers import add_older_names

ROOT = Path(__file__).resolve().parents[2]
READERS = (
    "transformers 5", "transformers 4", "vLLM", "SGLang", "llama.cpp/Ollama", "mlx-lm", "CTranslate2",
    "onnxruntime-genai",
)  # fmt: skip
ASKED_ELSEWHERE = {"transformers 5", "SGLang", "llama.cpp/Ollama"}


def config(family: str, **changes: Any) -> Any:
    """As it comes out of an exported folder."""
    with tempfile.TemporaryDirectory() as folder:
        AutoConfig.for_model(family, **{**SHAPE, "vocab_size": 400, **changes}).save_pretrained(folder)
        add_older_names(Path(folder))
        return AutoConfig.from_pretrained(folder)


@cache
def tiny(setting: str) -> Any:
    family, changes = SETTINGS[setting]
    return config(family, **changes)


def of(setting: str) -> dict[str, Verdict]:
    return {verdict.reader: verdict for verdict in verdicts(tiny(setting))}


def test_every_rule_is_for_a_model_that_is_asked_about() -> None:
    rules, measured = read_rules()
    seen, met = set(), set()
    for setting, (family, _) in SETTINGS.items():
        one = tiny(setting)
        facts = unusual(one)
        met |= {(family, name) for name in facts}
        seen |= {id(find_rule(reader, one, facts)) for reader in READERS}
    of_others = [rule for rule in rules if id(rule) not in seen and rule.reader != "SGLang"]
    assert of_others == []
    assert {family for family, _ in SETTINGS.values()} == measured.keys()
    assert {(family, name) for family, names in measured.items() for name in names or ()} <= met


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_model_that_is_asked_about_has_its_verdict(setting: str) -> None:
    found = of(setting)
    assert tuple(found) == READERS
    for reader in found.keys() - ASKED_ELSEWHERE:
        assert found[reader].verdict != NOT_CHECKED, words(found[reader])
        assert (found[reader].verdict == SETTING) == (found[reader].limit is not None)
    assert found["SGLang"].verdict in (NOT_RUN, NOT_CHECKED)


def test_every_rule_names_its_test() -> None:
    for rule in read_rules()[0]:
        if rule.test is None:
            assert rule.version is None and rule.verdict in (NOT_RUN, NOT_CHECKED)
            continue
        file, _, name = rule.test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("setting", "reader", "verdict", "words_of_it"),
    [
        ("mistral window", "mlx-lm", SETTING, f"at most {WINDOW} tokens"),
        ("mistral window", "llama.cpp/Ollama", SETTING, f"sliding_window = {WINDOW}"),
        ("mistral window", "vLLM", RIGHT, ""),
        ("phi3 longrope", "vLLM", SETTING, f"max_model_len: at most {ORIGINAL}"),
        ("llama dynamic", "vLLM", SETTING, f"max_model_len: at most {ORIGINAL}"),
        ("llama dynamic", "llama.cpp/Ollama", "refused", "rope type 'dynamic'"),
        ("gemma3", "CTranslate2", SETTING, f"at most {WINDOW} tokens"),
        ("gemma3 thetas", "CTranslate2", "wrong", "whatever config.json says"),
        ("llama llama3", "CTranslate2", "wrong", "scaling"),
        ("gemma2 untied", "vLLM", "refused", "output layer of its own"),
        ("qwen3_moe", "llama.cpp/Ollama", NOT_CHECKED, "convert_hf_to_gguf.py"),
        ("granite", "SGLang", NOT_RUN, "by its documentation"),
    ],
)
def test_known_verdicts(setting: str, reader: str, verdict: str, words_of_it: str) -> None:
    found = of(setting)[reader]
    assert found.verdict == verdict and words_of_it in found.words and "\n" not in found.words


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("gpt2", {}, "models of type 'gpt2' were not measured"),
        ("glm4", {}, "models of type 'glm4' were not measured"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu' was not measured with this family"),
        ("llama", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config = "),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "reward models were not measured"),
        ("mistral", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "rope_type = 'yarn'"),
        ("qwen2", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope_type = "),
        ("gemma2", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping = 5.0"),
        ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 16}, "window = "),
        ("smollm3", {"no_rope_layers": [0, 1]}, "no_rope_layers = "),
    ],
)
def test_what_was_not_measured_is_never_said_to_be_right(family: str, changes: dict[str, Any], why: str) -> None:
    found = {verdict.reader: verdict for verdict in verdicts(config(family, **changes))}
    assert found.pop("transformers 5").verdict == RIGHT  # each export proves it
    if family in ("llama", "gemma2", "mistral") and "architectures" not in changes:
        found.pop("llama.cpp/Ollama")  # its table knows every key
    assert not [words(one) for one in found.values() if one.verdict in (RIGHT, SETTING)]
    assert found["vLLM"].verdict == NOT_CHECKED and why in found["vLLM"].words


def test_an_export_says_where_it_runs(tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run_export({"model_name_or_path": str(tiny_llama), "template": "chatml", "export_dir": str(out)})
    printed, card = capsys.readouterr().out, (out / "README.md").read_text(encoding="utf-8")
    saved = json.loads((out / "compatibility.json").read_text(encoding="utf-8"))
    assert [entry["reader"] for entry in saved["readers"]] == list(READERS)
    assert saved["unusual"] == {"tie_word_embeddings": True}
    for entry in saved["readers"]:
        line = next(line for line in printed.splitlines() if line.startswith(f"  {entry['reader']} "))
        assert entry["verdict"] in line and entry["words"] in line
        assert f"| {entry['reader']} | {entry['version'] or ''} | {entry['verdict']}" in card
    assert str(tmp_path) not in card and str(tiny_llama) not in card


def test_a_failure_leaves_no_word_of_it(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files appear with the folder, or not at all."""

    def full_disk(*_: Any, **__: Any) -> None:
        assert list(tmp_path.glob(".out*/compatibility.json"))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llamafactory.export.export.write_manifest", full_disk)
    with pytest.raises(ConfigError, match=r"out: No space"):
        run_export({"model_name_or_path": str(tiny_llama), "template": "chatml", "export_dir": str(tmp_path / "out")})
    assert not list(tmp_path.iterdir())


def test_the_documentation_has_the_table() -> None:
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    section = text.split("## Where it runs")[1].split("\n## ")[0]
    for setting in SETTINGS:
        assert f"| {setting} |" in section
    for rule in read_rules()[0]:
        assert rule.reader in section and (rule.reader == "transformers 5" or (rule.version or "") in section)


@pytest.mark.parametrize(
    ("family", "widths"),
    [("gemma4_text", (4096, 2048)), ("gemma3n_text", (2048, 512)), ("mamba2", (0, 0)), ("llama", (4096, 4096))],
)
def test_sizes_that_differ_by_layer_and_models_without_attention(family: str, widths: tuple[int, int]) -> None:
    """Gemma 4 has wider heads in its full layers (transformers raises for the one width), 3n lists widths."""
    one = AutoConfig.for_model(family)
    assert attention_width(one) == widths
    assert context_length(one) > 0 and activation_bytes(one, 8, 2) > 0
    assert tuple(verdict.reader for verdict in verdicts(one)) == READERS


def test_no_model_that_writes_text_breaks_it() -> None:
    """Every configuration class of transformers that a language model has, as it comes: a verdict, or not known."""
    from transformers.models.auto import modeling_auto

    names = {*modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES}
    made, unknown = 0, set()
    for name in sorted(names.intersection(CONFIG_MAPPING)):
        try:
            one = CONFIG_MAPPING[name]()
        except (ValueError, StrictDataclassClassValidationError):  # it is not made without its parts
            continue
        made += 1
        assert tuple(verdict.reader for verdict in verdicts(one)) == READERS, name
        length, needed = context_length(one), activation_bytes(one.get_text_config(decoder=True), 8, 2)
        assert length is None or length > 0, name
        unknown |= {name} if needed is None else set()
        assert needed is None or needed > 0, name
    assert made > 150 and len(unknown) < 10 and "blt" in unknown, (made, unknown)
