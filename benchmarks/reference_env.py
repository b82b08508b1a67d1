# SPDX-License-Identifier: Apache-2.0
"""The environment and data of LLaMA-Factory 0.9.5 from PyPI, to compare with; nothing of it is kept in the project."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

VERSION = "0.9.5"
REQUIREMENTS = [
    "torch==2.13.0",
    "transformers<=5.6,!=5.6.0",
    "trl<=0.24",
    "peft<=0.18.1",
    "datasets<=4.0.0",
    "accelerate<=1.11.0",
    "gradio<=5.50.0",
    *("av", "einops", "fire", "hf-transfer", "modelscope", "omegaconf", "scipy", "sse-starlette", "tiktoken", "tyro"),
    *("matplotlib", "sentencepiece"),
]


def make_environment(root: Path) -> Path:
    """Install LLaMA-Factory into ``root/env`` and return that folder.

    CPU builds of torchvision and torchaudio are not to be had everywhere: the package is installed without its
    requirements, those that it needs for text are added, and an empty module stands in for torchaudio.
    """
    environment = root / "env"
    if (environment / ".complete").exists():
        return environment
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *REQUIREMENTS], check=True)
    subprocess.run([*pip, "--no-deps", f"llamafactory=={VERSION}", "torchdata", "unearth"], check=True)
    subprocess.run([*pip, "unearth"], check=True)
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "torchaudio").mkdir(exist_ok=True)
    (packages / "torchaudio" / "__init__.py").touch()
    (environment / ".complete").touch()
    return environment


def fetch_data(root: Path, environment: Path) -> Path:
    """Download the source archive from PyPI and unpack only its ``data`` folder."""
    data = root / f"llamafactory-{VERSION}" / "data"
    if data.is_dir():
        return data
    unearth = environment / "bin" / "unearth"
    subprocess.run(
        [unearth, "--no-binary", "-d", root, f"llamafactory=={VERSION}"], check=True, stdout=subprocess.DEVNULL
    )
    if data.is_dir():  # unpacked by the download
        return data
    with tarfile.open(root / f"llamafactory-{VERSION}.tar.gz") as archive:
        prefix = f"llamafactory-{VERSION}/data/"
        archive.extractall(root, [m for m in archive.getmembers() if m.name.startswith(prefix)], filter="data")
    return data
