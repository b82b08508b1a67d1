# SPDX-License-Identifier: Apache-2.0
"""The loss of an embedding model: over all texts of an optimizer step, however it is cut.

A step of several micro-batches is computed twice (GradCache, Gao et al. 2021): first all vectors without gradients,
from which the gradient of the loss with respect to each vector follows; then each micro-batch again, whose vectors
times those gradients have the gradient of the whole loss with respect to the weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...extras.errors import ConfigError
from ...hparams import split_list
from ...model.vectors import vector_settings, write_settings
from ...model.wrapping import beneath_adapters
from ..evaluation.evaluate import speed
from ..losses.contrastive import Texts, cosent, info_nce, known_pairs, pair_cosines
from ..metrics.ranking import correlations, mean_ranking
from ..trainer import Trainer
from .vectors import attach_vectors, of_all_ranks, only_real, texts_of


class Share(NamedTuple):
    """What the loss of a step is for one micro-batch.

    Attributes:
        gradient: [S, d] of the step's sum with respect to the vectors.
        loss: Its part of that sum.
        hits: Positives that are nearer than all negatives.
    """

    gradient: Tensor
    loss: Tensor
    hits: Tensor


class Dice:
    """The state of the generators before a forward pass, so that dropout falls alike in the second."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.here = torch.get_rng_state()
        self.there = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def throw_again(self) -> None:
        """Put the generators back."""
        torch.set_rng_state(self.here)
        if self.there is not None:
            torch.cuda.set_rng_state(self.there, self.device)


class EmbeddingTrainer(Trainer):
    """InfoNCE, a mean over the positives of a step, or CoSENT over its pairs; on each of ``embedding_dims`` alike."""

    def __init__(self, *, model: nn.Module, run_args: Any, **everything: Any) -> None:
        self.settings = vector_settings(run_args, trains=True)
        self.keys = run_args.finetuning
        width = beneath_adapters(model).config.get_text_config().hidden_size
        self.widths = [int(one) for one in split_list(self.keys.embedding_dims)] or [width]
        if max(self.widths) > width:
            raise ConfigError(
                f"embedding_dims: {max(self.widths)} is more than the {width} that the model's vectors have"
            )
        super().__init__(model=model, run_args=run_args, **everything)

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return attach_vectors(model, self.settings.pooling)

    def num_items(self, batch: dict[str, Any]) -> int:
        """Return the number of positives (InfoNCE) or of pairs; a filler has none."""
        counted = batch["owners"] >= 0
        ranks = self.keys.embedding_loss == "infonce"
        return int((counted & (batch["grades"] > 0 if ranks else ~batch["grades"].isnan())).sum())

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if len(batches) > 1:
            self._look_ahead(batches)
        return batches, items

    @torch.no_grad()
    def _look_ahead(self, batches: list[dict[str, Any]]) -> None:
        """Put the gradients of the step's vectors into its micro-batches; all ranks call this together."""
        self.model.train()
        vectors = []
        for batch in batches:
            batch["dice"] = Dice(self.args.device)
            with self.compute_loss_context_manager():
                vectors.append(self.model(**self._prepare_inputs(batch), vectors=True))
        for batch, share in zip(batches, self._shares(vectors, batches), strict=True):
            batch["share"] = share._asdict()

    def token_scores(self, model: nn.Module, inputs: dict[str, Any], evaluating: bool = False) -> Tensor:
        """Return vectors [S, d]."""
        if "dice" in inputs:
            inputs["dice"].throw_again()
        vectors: Tensor = model(**inputs, vectors=True)
        return vectors

    def loss_sums(self, scores: Tensor, inputs: dict[str, Any]) -> dict[str, Tensor]:
        share = Share(**inputs["share"]) if "share" in inputs else self._shares([scores.detach()], [inputs])[0]
        linear = (scores * share.gradient).sum()  # its gradient is that of the step's loss
        sums = {"loss": share.loss + linear - linear.detach()}
        return sums | ({"accuracy": share.hits} if self.keys.embedding_loss == "infonce" else {})

    @torch.enable_grad()
    def _shares(self, vectors: list[Tensor], batches: list[dict[str, Any]]) -> list[Share]:
        """Return the shares of this rank's micro-batches in the loss of the whole step."""
        sizes = [len(some) for some in vectors]
        everything, own = of_all_ranks(texts_of(torch.cat(vectors).float(), batches))
        everything = everything._replace(vectors=everything.vectors.detach().requires_grad_())
        with torch.autocast(everything.vectors.device.type, enabled=False):
            losses, hits = self._losses(everything)
        (gradient,) = torch.autograd.grad(losses.sum(), everything.vectors)
        columns = (column[own].split(sizes) for column in (gradient, losses.detach(), hits))
        return [Share(gradient, loss.sum(), hit.sum()) for gradient, loss, hit in zip(*columns, strict=True)]

    def _losses(self, everything: Texts) -> tuple[Tensor, Tensor]:
        """Return [S] what each text adds to the sum of the step, and [S] whether it is a positive that is nearest."""
        texts, real = only_real(everything)
        losses, hits = torch.zeros_like(everything.grades), torch.zeros_like(everything.grades)
        counted = texts.grades > 0 if self.keys.embedding_loss == "infonce" else ~texts.is_query
        places = real.nonzero().squeeze(-1)[counted]
        if not len(places):  # nothing but fillers
            return losses + everything.vectors.sum() * 0, hits
        for width in self.widths:
            some = texts._replace(vectors=texts.vectors[:, :width])
            if self.keys.embedding_loss == "infonce":
                values, nearest = info_nce(some, self.keys.embedding_temperature)
                hits = hits.index_copy(0, places, nearest.float()) if width == max(self.widths) else hits
            else:
                values = cosent(some, self.keys.embedding_temperature).expand(len(places))
            losses = losses.index_add(0, places, values)
        return losses, hits

    # Evaluation: all texts of a set at once, so that it does not depend on how they are cut.

    def measure(self, model: nn.Module, batches: dict[str, Iterable[dict[str, Any]]], prefix: str) -> dict[str, float]:
        metrics: dict[str, float] = {}
        start, rows = time.perf_counter(), 0
        for name, some in batches.items():
            texts = self._texts_of_set(model, some)
            rows += int(texts.is_query.sum())
            found = self._figures(texts)
            metrics |= {f"{prefix}_{name}_{key}" if name else f"{prefix}_{key}": value for key, value in found.items()}
        if "" not in batches:
            named = [f"{prefix}_{name}_" for name in batches]
            means = {key: [metrics[f"{head}{key}"] for head in named] for key in found}
            metrics |= {f"{prefix}_{key}": sum(values) / len(values) for key, values in means.items()}
        return metrics | speed(rows, start, prefix)

    @torch.no_grad()
    def _texts_of_set(self, model: nn.Module, batches: Iterable[dict[str, Any]]) -> Texts:
        vectors, kept = [], []
        for batch in batches:
            with self.accelerator.autocast():
                vectors.append(model(**self._prepare_inputs(batch), vectors=True))
            kept.append({name: batch[name] for name in ("keys", "owners", "grades")})
        return only_real(of_all_ranks(texts_of(torch.cat(vectors).float(), kept))[0])[0]

    def _figures(self, texts: Texts) -> dict[str, float]:
        losses, _ = self._losses(texts)
        if self.keys.embedding_loss == "cosent":
            cosines, grades = pair_cosines(texts)
            return {"loss": float(losses.sum() / (~texts.is_query).sum()), **correlations(cosines, grades)}
        loss = float(losses.sum() / (texts.grades > 0).sum().clamp(min=1))
        return {"loss": loss, **mean_ranking(_by_query(texts))}

    def save_texts(self, folder: Any) -> None:
        """Write beside the weights how texts become vectors."""
        super().save_texts(folder)
        write_settings(folder, self.settings, beneath_adapters(self.model).config.get_text_config().hidden_size)


def _by_query(texts: Texts) -> Iterable[tuple[Tensor, Tensor]]:
    """Yield, for each query, the cosines of all documents of the set, each once, and how relevant they are."""
    units, numbers = nn.functional.normalize(texts.vectors, dim=-1), texts.keys[~texts.is_query]
    keys, inverse = torch.unique(numbers, return_inverse=True)
    place = torch.zeros(len(keys), dtype=torch.long, device=keys.device).index_copy(
        0, inverse, torch.arange(len(inverse), device=keys.device)
    )
    documents, related = units[~texts.is_query][place], known_pairs(texts)[:, place]
    for number, query in enumerate(units[texts.is_query]):
        yield documents @ query, related[number].float()
