# SPDX-License-Identifier: Apache-2.0
"""``/v1/embeddings`` of a model of stage embedding, beside transformers and pooling by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx2 as httpx
import torch

from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.hparams import get_infer_args
from llamafactory.model.vectors import VectorSettings, vector_settings, write_settings

from .conftest import MODEL, running


def test_texts_get_their_prompt_and_vectors_their_width(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = tmp_path / "vectors"
    shutil.copytree(tiny_llama, folder)
    write_settings(folder, VectorSettings("last", query="question: "), 64)
    args = get_infer_args({"model_name_or_path": str(folder), "stage": "embedding", "infer_dtype": "float32"})
    settings = vector_settings(args)
    prompts = {kind: settings.prompt(kind) for kind in ("query", "document")}
    engine = HuggingfaceEngine(args)
    tokenizer, net = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32)

    def expected(text: str, width: int = 64) -> torch.Tensor:
        with torch.no_grad():
            state = net(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1, :width]
        return torch.nn.functional.normalize(state, dim=0)

    with running(engine, prompts=prompts) as server:

        def ask(**more: Any) -> Any:
            body = {"model": MODEL, "input": ["a river", "who are you"], **more}
            return httpx.post(server.url + "/v1/embeddings", json=body)

        for more, before, width in (
            ({}, "", 64), ({"input_type": "query"}, "question: ", 64), ({"dimensions": 8}, "", 8),
            ({"input_type": "document"}, "", 64),
        ):  # fmt: skip
            for one, text in zip(ask(**more).json()["data"], ("a river", "who are you"), strict=True):
                found = torch.tensor(one["embedding"])
                torch.testing.assert_close(found, expected(before + text, width), rtol=0, atol=1e-5)
        assert "more than the 64" in ask(dimensions=65).json()["error"]["message"]
        assert ask(input=[" "]).status_code == 400
        answer = httpx.post(server.url + "/v1/completions", json={"model": MODEL, "prompt": "a"})
        assert answer.status_code == 405 and "/v1/embeddings" in answer.json()["error"]["message"]
    engine.close()
