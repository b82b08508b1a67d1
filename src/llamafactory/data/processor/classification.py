# SPDX-License-Identifier: Apache-2.0
"""Features of texts with what a classifier shall say of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError, short
from ..formats.fields import number_of
from .base import Outcome, Processor, Row
from .texts import Text, texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Sample
    from ..sources.dataset_info import DatasetAttr
    from ..template.base import Template

_COLUMNS = ("input_ids", "labels", "seq_lens")


class ClassificationProcessor(Processor[Text]):
    """A row is a text and ``classes``: the names of its classes, for each sequence; in regression ``targets``: numbers.

    ``labels`` are the tokens themselves: all of them are read, none is predicted.
    """

    name = "classification"
    columns = (*_COLUMNS, "classes", "targets", "sample")
    unused = ("margin", "chosen", "rejected", "response", "reasoning", "weights", "positive", "negative", "score")

    def check_layout(self, attr: DatasetAttr) -> None:
        """Refuse a set without a column of labels."""
        if attr.columns.label is None and attr.columns.kto_tag is None:
            raise ConfigError(
                f"dataset {attr.name!r}: no column holds classes; name it: label in the columns of dataset_info.json, "
                "or the key columns"
            )

    def tokenize(
        self, samples: Sequence[Sample], template: Template, tokenizer: PreTrainedTokenizerBase, args: DataArguments
    ) -> list[Text]:
        """Raises ConfigError for an empty text."""
        return texts_of(samples, template, tokenizer, args)

    def fit(self, sample: Sample, tokens: Text, args: DataArguments) -> Outcome:
        """One row, or none if it is too long and ``overlong`` is ``drop``."""
        wanted = targets_of(sample, args.problem_type)
        if not tokens.ids:
            return Outcome([], tokens.length, tokens.length, too_long=True)
        size = len(tokens.ids)
        row: dict[str, Any] = {"input_ids": tokens.ids, "labels": tokens.ids, "seq_lens": [size], "media": [[]]}
        is_number = args.problem_type == "regression"
        row |= {"classes": [[] if is_number else wanted], "targets": [wanted if is_number else []]}
        return Outcome([Row(row, size)], tokens.length, tokens.length - size, too_long=False)


def targets_of(sample: Sample, problem_type: str | None) -> list[Any]:
    """Return the names of a sample's classes, or its numbers if the problem is regression.

    Raises:
        ConfigError: The row says nothing, or something that the problem has no place for.
    """
    value = sample.label if sample.target is None else sample.target
    if isinstance(value, str) and value.lstrip().startswith("["):
        raise ConfigError(f"{sample.origin}: label {short(value)} is no list in JSON")
    if value is None or value == "":
        raise ConfigError(f"{sample.origin}: it has no label")
    parts = value if isinstance(value, list) else [value]
    if problem_type == "regression":
        return [number_of(part, f"{sample.origin}: label") for part in parts]
    if problem_type != "multi_label_classification" and len(parts) != 1:
        raise ConfigError(
            f"{sample.origin}: label {short(value)} names {len(parts)} classes; "
            "problem_type: multi_label_classification takes any number"
        )
    return list(dict.fromkeys(map(class_name, parts)))


def class_name(value: Any) -> str:
    """The name of a class that is written as text, as a number or as true or false."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
