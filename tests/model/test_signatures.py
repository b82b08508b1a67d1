# SPDX-License-Identifier: Apache-2.0
"""What cannot be run without a GPU: written as the installed libraries take it, and asking for what they ask for."""

from __future__ import annotations

import inspect

import pytest
import torch
from transformers import EetqConfig
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from llamafactory.hparams.derive import Dtypes
from llamafactory.hparams.model_args import QuantizationArguments
from llamafactory.plugins import resolve

HERE = Dtypes("float16", "float32", "float16", autocast=False)


def test_eetq_is_configured_as_transformers_takes_it() -> None:
    row = resolve("quantizers", "eetq")
    made = row.options(QuantizationArguments("eetq", 8), HERE, ["lm_head"])["quantization_config"]
    assert type(made) is EetqConfig and (made.weights, made.modules_to_not_convert) == ("int8", ["lm_head"])


@pytest.mark.parametrize(
    ("name", "switches"),
    [
        ("eetq", {"is_kernels_available": "kernels"}),
        ("aqlm", {"is_aqlm_available": "aqlm"}),
        ("awq", {"is_gptqmodel_available": "gptqmodel"}),
        ("gptq", {"is_optimum_available": "optimum", "is_gptqmodel_available": "gptqmodel"}),
    ],
)
def test_transformers_asks_for_the_packages_that_we_name(
    name: str, switches: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one package missing after another, its own check of the environment names it; and we name no others."""
    kind = AUTO_QUANTIZER_MAPPING[name]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for switch, package in switches.items():
        with monkeypatch.context() as patch:
            for other in switches:
                there = other != switch
                patch.setattr(f"{kind.__module__}.{other}", lambda there=there: there)
            with pytest.raises(ImportError, match=package):
                kind.__new__(kind).validate_environment()
    assert {package for package, _ in resolve("quantizers", name).packages} == set(switches.values())


def test_torchao_takes_our_filter() -> None:
    float8 = pytest.importorskip("torchao.float8")
    parameters = inspect.signature(float8.convert_to_float8_training).parameters
    assert next(iter(parameters)) == "module" and "module_filter_fn" in parameters
