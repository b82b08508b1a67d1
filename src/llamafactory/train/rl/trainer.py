# SPDX-License-Identifier: Apache-2.0
"""The loop of both RL stages: answer prompts, reward the answers, credit their tokens, update; then answer again.

A stage says how rewards become advantages (:meth:`RolloutTrainer.credit`) and which loss it has; nothing else.
"""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...data.messages import Message
from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...hparams import TrainArgs
from ...model import make_reference, without_adapter
from ...plugins import resolve
from ..losses.policy import PolicySettings, StepItems, kl_estimate, loss_weights, policy_token_losses
from ..token_scores import TokenScores, attach
from ..trainer import Trainer
from .completions import Batch, make_batch, mask_of, model_inputs, rows_of
from .log import RolloutLog
from .ranks import gather_records, sum_over_ranks
from .rewards.reward_set import Completion, load_rewards
from .rollouts.rollout import Engine, Rollout, roll_out, sampling_of, seed_of
from .rollouts.tools import load_tools
from .schedule import Place, RolloutSchedule
from .state import load_state, save_state

logger = get_logger(__name__)


class RolloutTrainer(Trainer):
    """Trains on the model's own answers.

    Attributes:
        loss_name: A key of ``POLICY_LOSSES``.
        settings: Of that loss.
        reference: Frozen model that the policy is compared with; None = the policy below its adapter, or no comparison.
    """

    loss_name: str
    settings: PolicySettings

    def __init__(self, *, model: nn.Module, **everything: Any) -> None:
        args: TrainArgs = everything["run_args"]
        self.reference: nn.Module | None = None
        self.compares = self.needs_reference(args)
        if self.compares:  # before the policy is taught anything, for a copy would answer with the policy's weights
            self.reference = make_reference(model, everything["tokenizer"], args)
            if self.reference is not None:
                attach(self.reference)
        super().__init__(model=model, **everything)
        self.sampling = sampling_of(args)
        kind = resolve("rollouts", args.rlhf.rollout_engine)
        self.engine: Engine = kind(self.model, self.template, self.sampling, args)
        self.rewards = load_rewards(args, self.processing_class, self.template, self.model)
        self.toolbox = load_tools(args.rlhf.rollout_tools) if args.rlhf.rollout_tools else None
        self.rollout_log = RolloutLog(str(self.args.output_dir))
        self.buffer: list[list[Batch]] | None = None
        self.schedule: RolloutSchedule
        if self.train_dataset is not None:
            self.schedule = self._schedule()

    # What a stage says

    @abstractmethod
    def needs_reference(self, args: TrainArgs) -> bool:
        """Whether the stage compares the policy with a reference."""

    @abstractmethod
    def repeats(self) -> tuple[int, int, int]:
        """Return answers to each prompt, optimizer steps in a rollout, passes over it."""

    @abstractmethod
    def credit(self, batches: list[Batch], rewards: Tensor) -> tuple[Tensor, dict[str, Sequence[float]]]:
        """Put ``advantages`` [S] or [N] into each batch of this rank.

        Args:
            batches: With ``old`` [N] and, if the stage compares, ``ref`` [N].
            rewards: [slots] of all ranks, float64; nan = no opinion.

        Returns:
            An advantage [slots] for the log, and values whose means are logged; the same on all ranks.
        """

    def state_of_stage(self) -> dict[str, Any]:
        """What the stage must know again after a resume, as plain values."""
        return {}

    def restore_stage(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_of_stage` gave."""

    @property
    def looks_back(self) -> bool:
        """Whether log-probabilities at the time of the rollout are needed: the policy moves before it is used up."""
        return self.schedule.buffer * self.schedule.passes > 1

    # Batches

    def _schedule(self) -> RolloutSchedule:
        answers, buffer, passes = self.repeats()
        args = self.args
        step = self._train_batch_size * args.gradient_accumulation_steps * args.world_size
        if step % answers:
            raise ConfigError(
                f"num_generations: {answers} does not divide the {step} answers of an optimizer step "
                "(per_device_train_batch_size x gradient_accumulation_steps x processes)"
            )
        if len(self.train_dataset) * answers < step:
            raise ConfigError(
                f"dataset: {len(self.train_dataset)} prompts, an optimizer step needs {-(-step // answers)}; "
                "lower per_device_train_batch_size or gradient_accumulation_steps"
            )
        return RolloutSchedule(
            len(self.train_dataset),
            answers,
            self._train_batch_size,
            args.gradient_accumulation_steps,
            buffer,
            passes,
            args.process_index,
            args.world_size,
            self._order_seed(),
        )

    def get_train_dataloader(self) -> Any:
        return self._batches(self.train_dataset, self.schedule)

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """Return the micro-batches of one optimizer step, out of a rollout made now or before."""
        place = self.schedule.place(self.state.global_step)
        with self.tokens.waiting():
            if place.number == 0 or self.buffer is None:
                if place.number:
                    logger.warning_rank0("the checkpoint holds no rollout of this rank; answering its prompts again")
                self.buffer = self._make(place)
        batches = self.buffer[place.batch]
        counts = sum_over_ranks(
            torch.tensor(
                [
                    sum(float(batch["kept"].sum()) for batch in batches),
                    sum(float((batch["kept"] * torch.tensor(batch["lengths"])).sum()) for batch in batches),
                    sum(batch["positions"].numel() for batch in batches),
                    sum(_real_tokens(batch) for batch in batches),
                ],
                dtype=torch.float64,
                device=device,
            )
        )
        self.tokens.add(counts[2:])
        completions, tokens = counts[:2].clamp(min=1).float()
        step = {"step": (completions, tokens)}
        return [{**batch, **step, "items": len(batch["lengths"])} for batch in batches], completions

    # Loss

    def scores(self, model: nn.Module, inputs: dict[str, Any], evaluating: bool = False) -> TokenScores:
        return model(**model_inputs(inputs), score=True, entropy=True, temperature=self.sampling.temperature)

    def item_sums(self, scores: TokenScores, inputs: dict[str, Any]) -> dict[str, Tensor]:
        lengths, step = inputs["lengths"], StepItems(*inputs["step"])
        log_probs = rows_of(scores.log_probs, lengths)
        mask = mask_of(lengths, log_probs.device) * inputs["kept"].unsqueeze(1)
        old = rows_of(inputs["old"], lengths) if "old" in inputs else log_probs.detach()
        advantages = inputs["advantages"]
        if len(advantages) != len(lengths):
            advantages = rows_of(advantages, lengths)
        ref = rows_of(inputs["ref"], lengths) if "ref" in inputs else None
        terms, clipped = policy_token_losses(
            self.loss_name, log_probs, old, advantages.to(log_probs.dtype), mask, self.settings, ref
        )
        weights = loss_weights(self.loss_name, mask, self.settings, step)
        assert scores.entropy is not None
        tokens = mask.sum()
        # The step divides by its completions, as every stage divides by its items; the weights have all of it already.
        sums = {
            "loss": (terms * weights).sum() * step.completions,
            "entropy": (rows_of(scores.entropy, lengths) * mask).sum(),
            "clip_fraction": clipped.sum(),
            "entropy:items": tokens,
            "clip_fraction:items": tokens,
        }
        if ref is not None and self.settings.beta:
            sums |= {"kl": (kl_estimate(log_probs.detach(), ref) * mask).sum(), "kl:items": tokens}
        return sums

    # Rollouts

    def _make(self, place: Place) -> list[list[Batch]]:
        """Answer the prompts of a rollout, reward the answers and credit their tokens."""
        start = time.perf_counter()
        rows, parts = self.schedule.rows(place), self.schedule.rollout(place)
        slots = [slot for step in parts for micro in step for slot in micro]
        seed = self._order_seed() or self.args.seed
        seeds = [seed_of(seed, place.first, *rows[slot]) for slot in slots]
        found = self._answer(self.train_dataset, [rows[slot][0] for slot in slots], seeds, greedy=False)
        records = self._judge(found, slots)
        rewards = torch.tensor([record["reward"] for record in records], dtype=torch.float64)
        answered = dict(zip(slots, (rollout for rollout, _ in found), strict=True))
        batches = [
            [
                make_batch([answered[slot] for slot in micro], self.collator, micro, [rows[slot][0] for slot in micro])
                for micro in step
            ]
            for step in parts
        ]
        flat = [batch for step in batches for batch in step]
        self._look_back(flat)
        advantages, means = self.credit(flat, rewards)
        for record, advantage in zip(records, advantages.tolist(), strict=True):
            record["advantage"] = advantage
        self._add_means({**self._summary(records), **means, "rollout_seconds": [time.perf_counter() - start]})
        if self.is_world_process_zero():
            self.rollout_log.write(place.first + 1, records)
        return batches

    def _answer(
        self, dataset: Any, rows: Sequence[int], seeds: Sequence[int], greedy: bool
    ) -> list[tuple[Rollout, dict[str, Any]]]:
        """Answer prompts; returns each rollout with the dataset row's own values."""
        found = []
        for row, seed in zip(rows, seeds, strict=True):
            features = dataset[row]
            given = json.loads(features["rollout"])
            messages = [Message.from_openai(message) for message in given["messages"]]
            tools, ids = given["tools"], features["input_ids"]
            if self.toolbox is not None:
                tools = self.toolbox.descriptions
                ids = self.template.encode_prompt(messages, tools)
            found.append((Rollout(messages, ids, seed, tools), given))
        self.engine.sync()
        call, rounds = (self.toolbox.call, self.run_args.rlhf.max_tool_rounds) if self.toolbox else (None, 0)
        with self.accelerator.autocast():
            roll_out(
                self.engine, [rollout for rollout, _ in found], self.template, self.sampling.limit, greedy, call, rounds
            )
        return found

    def _judge(self, found: list[tuple[Rollout, dict[str, Any]]], slots: Sequence[int]) -> list[dict[str, Any]]:
        """Return the records of all ranks' answers, rewarded, in the order of slots; all ranks call this together."""
        completions = [
            Completion(
                prompt=tuple(rollout.messages),
                message=rollout.turns[-1],
                text=rollout.text,
                ids=rollout.ids,
                finished=rollout.finished,
                columns={**given["columns"], "reference": given["reference"]},
                turns=tuple(rollout.turns),
                tools=tuple(rollout.tools),
            )
            for rollout, given in found
        ]
        scores = self.rewards(completions)
        decode = self.processing_class.decode
        mine = [
            {
                "slot": slot,
                "prompt": decode(rollout.prompt, skip_special_tokens=True),
                "completion": decode(rollout.ids, skip_special_tokens=len(rollout.turns) == 1),
                "rewards": {name: float(values[number]) for name, values in scores.parts.items()},
                "reward": float(scores.total[number]),
                "length": sum(rollout.written),
                "finished": rollout.finished,
            }
            for number, (slot, (rollout, _)) in enumerate(zip(slots, found, strict=True))
        ]
        records = sorted(gather_records(mine, self.args.device), key=lambda record: record["slot"])
        for record in records:
            del record["slot"]
        return records

    @torch.no_grad()
    def _look_back(self, batches: list[Batch]) -> None:
        """Put ``old``, ``ref`` and ``values`` [N], where the stage needs them, into the batches."""
        policy: Any = self.accelerator.unwrap_model(self.model)
        was_training = policy.training
        policy.eval()
        for batch in batches:
            inputs = self._prepare_inputs(model_inputs(batch))
            options = {"score": True, "temperature": self.sampling.temperature}
            with self.accelerator.autocast():
                if self.looks_back:
                    scores = policy(**inputs, **options)
                    batch["old"] = scores.log_probs
                    if scores.values is not None:
                        batch["values"] = scores.values
                if self.reference is not None:
                    batch["ref"] = self.reference(**inputs, **options).log_probs
                elif self.compares:
                    with without_adapter(policy) as base:
                        batch["ref"] = base(**inputs, **options).log_probs
        policy.train(was_training)

    def _summary(self, records: list[dict[str, Any]]) -> dict[str, Sequence[float]]:
        parts: dict[str, list[float]] = {name: [] for name in self.rewards.names}
        for record in records:
            for name, value in record["rewards"].items():
                parts[name].append(value)
        return {
            "reward": [record["reward"] for record in records],
            **{f"reward/{name}": values for name, values in parts.items()},
            "response_length": [record["length"] for record in records],
            "finished": [float(record["finished"]) for record in records],
        }

    def _add_means(self, values: dict[str, Sequence[float]]) -> None:
        """Log means of values that all ranks know; nan is left out."""
        sums: dict[str, Tensor] = {}
        for name, some in values.items():
            known = torch.tensor([value for value in some if value == value], dtype=torch.float64)
            share = float(self.is_world_process_zero())  # the ranks' sums are added when they are logged
            sums |= {name: share * known.sum(), f"{name}:items": torch.tensor(share * len(known))}
        self.means.add({name: value.to(self.args.device) for name, value in sums.items()}, 0)

    # Evaluation, logs, checkpoints

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Reward answers to each evaluation set: ``eval_reward``, ``eval_<name>_reward`` …"""
        sets = self.eval_dataset if eval_dataset is None else eval_dataset
        sets = sets if isinstance(sets, dict) else {"": sets}
        start, metrics = time.perf_counter(), dict[str, float]()
        everything: list[dict[str, Any]] = []
        for name, rows in sets.items():
            mine = list(range(self.args.process_index, len(rows), self.args.world_size))
            seeds = [seed_of(self.args.seed, "eval", row) for row in mine]
            found = self._answer(rows, mine, seeds, greedy=self.run_args.rlhf.eval_rollouts == "greedy")
            records = self._judge(found, mine)
            everything += records
            if name:
                metrics |= self._means_of(records, f"{metric_key_prefix}_{name}")
        metrics |= self._means_of(everything, metric_key_prefix)
        seconds = time.perf_counter() - start
        metrics[f"{metric_key_prefix}_runtime"] = round(seconds, 4)
        metrics[f"{metric_key_prefix}_samples_per_second"] = round(len(everything) / max(seconds, 1e-9), 3)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _means_of(self, records: list[dict[str, Any]], prefix: str) -> dict[str, float]:
        means = {}
        for name, values in self._summary(records).items():
            known = [value for value in values if value == value]
            if known:
                means[f"{prefix}_{name}"] = sum(known) / len(known)
        return means

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if "loss" in logs and self.is_world_process_zero():
            self.rollout_log.show(self.state.global_step)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        done = self.schedule.place(self.state.global_step).number == 0
        save_state(output_dir, self.args.process_index, None if done else self.buffer, self.state_of_stage())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.is_world_process_zero():
            self.rollout_log.start(self.state.global_step)
        if checkpoint is not None:
            self.buffer, state = load_state(checkpoint, self.args.process_index)
            self.restore_stage(state)


def _real_tokens(batch: Batch) -> int:
    mask = batch.get("attention_mask")
    return int(batch["input_ids"].numel() if mask is None else mask.sum())
