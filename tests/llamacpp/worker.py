# SPDX-License-Identifier: Apache-2.0
"""Runs in llama.cpp's own environment: JSON jobs in, JSON answers out, one a line."""

import json
import sys

from llama_cpp import Llama

for line in sys.stdin:
    job = json.loads(line)
    model = Llama(job["file"], n_ctx=512, n_threads=1, logits_all=True, verbose=False)
    answer = {}
    if "text" in job:
        answer["ids"] = [model.tokenize(text.encode(), add_bos=False, special=True) for text in job["text"]]
    if "ids" in job:
        model.eval(job["ids"])
        answer["logits"] = model.scores[: model.n_tokens].tolist()
    if "conversations" in job:
        answer["answers"] = [
            model.create_chat_completion(
                [{"role": "user", "content": text}], temperature=0.0, repeat_penalty=1.0, max_tokens=job["max_tokens"]
            )["choices"][0]["message"]["content"]
            for text in job["conversations"]
        ]
    print(json.dumps(answer), flush=True)
