# SPDX-License-Identifier: Apache-2.0
"""Run in another program's environment: load a folder as it loads folders, and print what it computes as JSON.

python reader.py transformers FOLDER TEXT        → ids of the text and logits of its last position
python reader.py cross-encoder FOLDER TEXT…      → one score a text
python reader.py pairs FOLDER QUERY DOCUMENT…    → one score a document
python reader.py vectors FOLDER TEXT             → the vectors of the text, and of it as a query and as a document
"""

from __future__ import annotations

import json
import sys


def _transformers(folder: str, text: str) -> dict[str, object]:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    ids = tokenizer(text).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    return {
        "version": transformers.__version__,
        "class": type(tokenizer).__name__,
        "ids": ids,
        "special": sorted(tokenizer.all_special_ids),
        "logits": logits.tolist(),
    }


def _cross_encoder(folder: str, *texts: str) -> dict[str, object]:
    from sentence_transformers import CrossEncoder, __version__

    model = CrossEncoder(folder, device="cpu")
    scores = [model.predict(text) for text in texts]
    return {"version": __version__, "scores": [float(score) for score in scores]}


def _pairs(folder: str, query: str, *documents: str) -> dict[str, object]:
    from sentence_transformers import CrossEncoder, __version__

    scores = CrossEncoder(folder, device="cpu").predict([(query, text) for text in documents])
    return {"version": __version__, "scores": [float(score) for score in scores]}


def _vectors(folder: str, text: str) -> dict[str, object]:
    from sentence_transformers import SentenceTransformer, __version__

    model = SentenceTransformer(folder, device="cpu")
    found = {"text": model.encode(text), "query": model.encode_query(text), "document": model.encode_document(text)}
    return {"version": __version__, **{kind: vector.tolist() for kind, vector in found.items()}}


_PROGRAMS = {"transformers": _transformers, "cross-encoder": _cross_encoder, "vectors": _vectors, "pairs": _pairs}

if __name__ == "__main__":
    print(json.dumps(_PROGRAMS[sys.argv[1]](*sys.argv[2:])))
