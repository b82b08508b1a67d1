# SPDX-License-Identifier: Apache-2.0
"""Our list of public data sets: every entry is one that the loader reads, and a user's own comes first."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llamafactory.data.sources.dataset_info import find_datasets
from llamafactory.data.sources.registry import public_datasets
from llamafactory.extras.errors import ConfigError
from llamafactory.plugins import resolve


@pytest.mark.parametrize("name", public_datasets())
def test_every_entry_is_read(name: str, tmp_path: Path) -> None:
    (attr,) = find_datasets([name], str(tmp_path))
    entry = public_datasets()[name]
    assert attr.place == ("hf" if "hf_hub_url" in entry else "ms")
    assert all(re.fullmatch(r"([\w.-]+/)?[\w.-]+", entry[key]) for key in entry if key.endswith("_hub_url"))
    assert callable(resolve("formats", attr.formatting))
    assert attr.ranking == ("chosen" in entry.get("columns", {}) or bool(entry.get("ranking")))


def test_names_that_users_know_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {
        "alpaca_gpt4_zh": "llamafactory/alpaca_gpt4_zh", "belle_2m": "BelleGroup/train_2M_CN",
        "ultrachat_200k": "HuggingFaceH4/ultrachat_200k", "openo1_sft": "llamafactory/OpenO1-SFT",
        "dpo_mix_en": "llamafactory/DPO-En-Zh-20k", "kto_mix_en": "argilla/kto-mix-15k",
        "fineweb": "HuggingFaceFW/fineweb",
    }  # fmt: skip
    assert {attr.name: attr.location for attr in find_datasets(list(wanted), {})} == wanted
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    (attr,) = find_datasets(["belle_2m"], {})
    assert (attr.place, attr.location) == ("ms", "AI-ModelScope/train_2M_CN")


def test_the_user_s_own_entry_wins_and_wrong_names_are_helped(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text(json.dumps({"fineweb": {"file_name": "mine.jsonl"}}))
    own, public = find_datasets(["fineweb", "alpaca_en"], str(tmp_path))
    assert (own.place, public.place) == ("file", "hf")
    with pytest.raises(ConfigError, match="did you mean ultrachat_200k"):
        find_datasets(["ultrachat_200"], str(tmp_path))
