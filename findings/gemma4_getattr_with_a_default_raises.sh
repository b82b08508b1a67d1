#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# transformers 5.23.0: the configuration of Gemma 4 calls a size in which its layers differ ambiguous, by an error that is a RuntimeError and no
# AttributeError. So `getattr(config, "head_dim", None)` and `hasattr(config, "head_dim")`, the usual way to ask for a size that a family may
# lack, raise for it, although `to_dict()` holds a `head_dim` of 256 and the layers have 256 and 512. `sliding_window` and the numbers of heads
# can be read. Code that estimates memory, a context length or a cache for any model stops at this family. Seen on 2026-11-29.
# Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from transformers import AutoConfig

config = AutoConfig.for_model("gemma4_text")


def ask(question):
    try:
        return question()
    except Exception as error:
        return f"{type(error).__name__} ({type(error).__mro__[1].__name__})"


seen = {
    "getattr with a default": ask(lambda: getattr(config, "head_dim", None)),
    "hasattr": ask(lambda: hasattr(config, "head_dim")),
    "to_dict": config.to_dict()["head_dim"],
    "layers": sorted({layer.head_dim for layer in config.per_layer_config}),
    "sliding_window": ask(lambda: getattr(config, "sliding_window", None)),
}
print(*(f"{name}: {value}" for name, value in seen.items()), sep="\n")
raised = "AmbiguousGlobalPerLayerAttributeError (RuntimeError)"
assert list(seen.values()) == [raised, raised, 256, [256, 512], 512], "changed"
PYTHON
echo "as stated"
