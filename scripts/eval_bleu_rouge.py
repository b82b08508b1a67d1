# SPDX-License-Identifier: Apache-2.0
"""BLEU-4 and ROUGE of answers in a file of lines with "predict" and "label".

python scripts/eval_bleu_rouge.py generated_predictions.jsonl
"""

from __future__ import annotations

from pathlib import Path

from llamafactory.extras.errors import ConfigError
from llamafactory.extras.files import parse_json, read_text, write_json
from llamafactory.extras.text_metrics import mean_of, text_scores
from llamafactory.train.statistics.flags import read_flags, run_script

OUT = "predictions_score.json"


def main() -> None:
    """Score every line, print the means, and write them down."""
    flags, keys = read_flags({"filename": ""}, {}, needed=("filename",))
    if keys:
        raise ConfigError(f"--{next(iter(keys))}: this script takes --filename alone")
    scores = []
    for number, line in enumerate(read_text(Path(flags["filename"])).splitlines(), 1):
        place = f"{flags['filename']} line {number}"
        row = parse_json(line, place)
        if not isinstance(row, dict) or not {"predict", "label"} <= set(row):
            raise ConfigError(f"{place}: expected an object with predict and label")
        scores.append(text_scores(str(row["predict"]), str(row["label"])))
    if not scores:
        raise ConfigError(f"{flags['filename']}: the file is empty")
    means = mean_of(scores)
    print("\n".join(f"{name}: {value:.4f}" for name, value in means.items()))
    write_json(Path(OUT), means)
    print(f"written to {OUT}")


if __name__ == "__main__":
    run_script(main)
