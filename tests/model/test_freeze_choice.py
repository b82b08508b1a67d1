# SPDX-License-Identifier: Apache-2.0
"""Which weights freeze tuning trains, by a pattern of the user's or by Spectrum's ratio of signal to noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.model import load_model, load_tokenizer, spectrum

KINDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
         "mlp.up_proj", "mlp.down_proj")  # fmt: skip


def trained(args: Any) -> set[str]:
    model = load_model(load_tokenizer(args.model), args)
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"model\.norm", {"model.norm.weight"}),
        (r"model\.layers\.1\.mlp", {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}),
        (
            r".*\.(q|v)_proj\.weight",
            {f"model.layers.{number}.self_attn.{part}_proj.weight" for number in (0, 1) for part in "qv"},
        ),
        (r"model\.embed_tokens|.*layernorm", {"model.embed_tokens.weight", *(
            f"model.layers.{number}.{part}_layernorm.weight"
            for number in (0, 1) for part in ("input", "post_attention")
        )}),
    ],
)  # fmt: skip
def test_a_pattern_names_whole_modules_or_weights(
    pattern: str, expected: set[str], tiny_llama: Path, train_args: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(train_args(tiny_llama, finetuning_type="freeze", freeze_trainable_pattern=pattern)) == expected
    assert "trainable params: " in capsys.readouterr().err  # with its share


def test_a_pattern_that_matches_nothing_lists_what_there_is(tiny_llama: Path, train_args: Any) -> None:
    args = train_args(tiny_llama, finetuning_type="freeze", freeze_trainable_pattern="q_proj")
    with pytest.raises(ConfigError) as caught:
        trained(args)
    line = str(caught.value)
    assert line.startswith("freeze_trainable_pattern: 'q_proj' matches no whole name of a module or weight; there are ")
    assert "model.embed_tokens.weight, model.layers.N.input_layernorm.weight" in line and "\n" not in line


def by_hand(weight: np.ndarray) -> float:
    """Section 3.2 of the paper, from the eigenvalues of the smaller Gram matrix."""
    wide = weight.astype(np.float64)
    gram = wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide
    values = np.sort(np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None)))[::-1]
    spread = (np.percentile(values, 75) - np.percentile(values, 25)) / 1.349
    edge = spread * (1 + np.sqrt(len(values) / max(wide.shape)))
    inside = values > edge
    return float(values[inside].sum() / values[~inside].sum() / values[0])


def test_spectrum_takes_the_layers_with_most_signal(
    make_tiny_model: Any, train_args: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    base = make_tiny_model(num_hidden_layers=4)
    state = load_file(base / "model.safetensors")
    ratios = {name: by_hand(weight.numpy()) for name, weight in state.items() if "_proj" in name}
    more = {"finetuning_type": "freeze", "spectrum_top_fraction": 0.5, "cache_dir": str(tmp_path / "cache")}
    found = trained(train_args(base, **more))
    expected = set()
    for kind in KINDS:
        names = sorted((f"model.layers.{number}.{kind}.weight" for number in range(4)), key=lambda name: -ratios[name])
        expected |= set(names[:2])
    assert found == expected
    [file] = (tmp_path / "cache" / "spectrum").iterdir()
    kept = json.loads(file.read_text("utf-8"))
    assert kept.keys() == ratios.keys()
    for name, ratio in kept.items():
        assert ratio == pytest.approx(ratios[name], rel=1e-4), name
    # The next run of this model looks nothing up anew, a damaged cache does.
    monkeypatch.setattr(spectrum, "signal_to_noise", None)
    assert trained(train_args(base, **more)) == found
    monkeypatch.undo()
    file.write_text("{")
    assert trained(train_args(base, **more)) == found and json.loads(file.read_text("utf-8")) == kept


def test_spectrum_takes_one_at_least_and_modules_outside_by_their_key(
    tiny_llama: Path, train_args: Any, tmp_path: Path
) -> None:
    more = {"freeze_extra_modules": "norm", "cache_dir": str(tmp_path)}
    found = trained(train_args(tiny_llama, finetuning_type="freeze", spectrum_top_fraction=0.1, **more))
    assert len(found) == len(KINDS) + 1 and "model.norm.weight" in found


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"freeze_trainable_pattern": "(a"}, "freeze_trainable_pattern: '(a' is no regular expression: "),
        ({"freeze_trainable_pattern": ""}, "freeze_trainable_pattern: empty; give a regular expression"),
        (
            {"freeze_trainable_pattern": "a", "freeze_extra_modules": "norm"},
            "freeze_extra_modules: not with freeze_trainable_pattern, which says itself what is trained",
        ),
        (
            {"spectrum_top_fraction": 0.5, "freeze_trainable_layers": 4},
            "freeze_trainable_layers: not with spectrum_top_fraction, which says itself what is trained",
        ),
        (
            {"spectrum_top_fraction": 0.5, "freeze_trainable_pattern": "a"},
            "spectrum_top_fraction: not with freeze_trainable_pattern",
        ),
        ({"spectrum_top_fraction": 1.5}, "spectrum_top_fraction: expected "),
        (
            {"spectrum_top_fraction": 0.5, "train_from_scratch": True},
            "spectrum_top_fraction: random weights of train_from_scratch hold no signal",
        ),
        ({"finetuning_type": "lora", "spectrum_top_fraction": 0.5}, "spectrum_top_fraction: only for finetuning_type"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_one_line(keys: dict[str, Any], line: str, train_args: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        train_args("nowhere", **{"finetuning_type": "freeze", **keys})
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
