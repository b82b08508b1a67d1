# SPDX-License-Identifier: Apache-2.0
"""What cannot be run without a GPU: written as the installed libraries take it, and asking for what they ask for."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from transformers import AqlmConfig, AwqConfig, EetqConfig, GPTQConfig
from transformers.quantizers import AutoHfQuantizer

from llamafactory.hparams.derive import Dtypes
from llamafactory.hparams.model_args import QuantizationArguments
from llamafactory.plugins import resolve

HERE = Dtypes("float16", "float32", "float16", autocast=False)


def test_eetq_is_configured_as_transformers_takes_it() -> None:
    row = resolve("quantizers", "eetq")
    made = row.options(QuantizationArguments("eetq", 8), HERE, ["lm_head"])["quantization_config"]
    assert type(made) is EetqConfig and (made.weights, made.modules_to_not_convert) == ("int8", ["lm_head"])


@pytest.mark.parametrize(
    ("name", "config", "switches"),
    [
        ("eetq", EetqConfig, {"is_kernels_available": "kernels"}),
        ("aqlm", lambda: AqlmConfig(), {"is_aqlm_available": "aqlm"}),
        ("awq", lambda: AwqConfig(), {"is_gptqmodel_available": "gptqmodel"}),
        (
            "gptq",
            lambda: GPTQConfig(bits=4),
            {"is_optimum_available": "optimum", "is_gptqmodel_available": "gptqmodel"},
        ),
    ],
)
def test_transformers_asks_for_the_packages_that_we_name(
    name: str, config: Any, switches: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one package missing after another, its own check of the environment names it; and we name no others."""
    for switch, package in switches.items():
        with monkeypatch.context() as patch:
            for other in switches:
                there = other != switch
                patch.setattr(f"transformers.quantizers.quantizer_{name}.{other}", lambda there=there: there)
            with pytest.raises(ImportError, match=package):
                AutoHfQuantizer.from_config(config(), pre_quantized=True).validate_environment()
    assert {package for package, _ in resolve("quantizers", name).packages} == set(switches.values())


def test_torchao_takes_our_filter() -> None:
    float8 = pytest.importorskip("torchao.float8")
    parameters = inspect.signature(float8.convert_to_float8_training).parameters
    assert next(iter(parameters)) == "module" and "module_filter_fn" in parameters
