# SPDX-License-Identifier: Apache-2.0
"""The example files of LLaMA-Factory 0.9.5, from its source archive: each is read here, or refused in one line.

Only its YAML and JSON files are taken out of the archive, into a temporary folder; nothing of it is kept.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.hparams.sharding import sharding_of

pytestmark = pytest.mark.slow
BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}
# Below examples/ -> how the line that refuses it begins.
REFUSED = {
    "deepspeed/ds_z2_autotp_config.json": "deepspeed: tensor_parallel is not read here",
    "extras/fp8/llama3_fp8_deepspeed_sft.yaml": "deepspeed: not with fp8",
    "extras/fp8/llama3_fp8_fsdp_sft.yaml": "fp8_enable_fsdp_float8_all_gather: ",
    "extras/mod/llama3_full_sft.yaml": "mixture_of_depths: convert asks for",
    **{f"megatron/{name}_full.yaml": ".*megatron-bridge wants transformers below 5"
       for name in ("qwen2_vl", "qwen3_moe")},
    **{f"ktransformers/train_lora/{name}_lora_sft_kt.yaml": "use_kt: .*KTransformers, which trains with"
       for name in ("deepseek_v2", "deepseek_v3", "qwen3_5moe", "qwen3moe")},
    "v1/train_qlora/quantization.yaml": "fsdp: not with quantization_bit",
    **{f"ktransformers/accelerate/fsdp2_kt_{kind}.yaml": "fsdp_config: .*: kt_config: not read here"
       for kind in ("bf16", "int4", "int8", "int8_1gpu", "int8_8gpu")},
}  # fmt: skip
OF_A_KEY = {"extras/multi_tokens/tokens_cfg.yaml": "new_special_tokens_config"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked folder, with examples/ and data/."""
    folder = tmp_path_factory.mktemp("reference")
    words = ["download", "--quiet", "--no-deps", "--no-binary", "llamafactory", "llamafactory==0.9.5"]
    done = subprocess.run([sys.executable, "-m", "pip", *words, "-d", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the archive cannot be fetched: {done.stderr.strip().splitlines()[-1:]}")
    [file] = folder.glob("*.tar.gz")
    with tarfile.open(file) as opened:
        wanted = [
            member
            for member in opened.getmembers()
            if member.name.endswith((".yaml", ".yml", ".json")) and member.name.split("/")[1] in ("examples", "data")
        ]
        opened.extractall(folder, wanted, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def read(path: Path, name: str) -> None:
    """Read a file of examples/ as the command that it is for does."""
    if name in OF_A_KEY:
        assert get_train_args({**BASE, OF_A_KEY[name]: str(path)})
    elif path.suffix == ".json":
        get_train_args({**BASE, "deepspeed": str(path)})
    elif path.parent.name == "accelerate":
        assert sharding_of(get_train_args({**BASE, "fsdp_config": str(path)}))
    elif {"dataset", "eval_dataset", "train_dataset"} & set(yaml.safe_load(path.read_text("utf-8"))):
        get_train_args([str(path)])
    else:
        get_infer_args([str(path)])


def test_all_of_them_are_read_or_refused(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archive)
    monkeypatch.setenv("WORLD_SIZE", "1")
    files = {
        path.relative_to(archive / "examples").as_posix(): path
        for path in sorted((archive / "examples").rglob("*"))
        if path.suffix in (".yaml", ".yml", ".json")
    }
    assert len(files) > 80 and set(files) >= set(REFUSED)
    wrong = {}
    for name, path in files.items():
        try:
            read(path, name)
            said = ""
        except ConfigError as error:
            said = str(error)
        wanted = REFUSED.get(name, "")
        if bool(wanted) != bool(said) or not re.match(wanted, said) or "\n" in said:
            wrong[name] = said
    assert wrong == {}
