# SPDX-License-Identifier: Apache-2.0
"""The loop of both RL stages: complete prompts, reward the completions, credit their tokens, update; and again.

A stage decides how rewards become advantages (:meth:`RolloutTrainer.credit`) and which loss it has; nothing else.
"""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...data.messages import Message, Part, Sample
from ...data.processor.rows import ids_of, media_in
from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...hparams import TrainArgs
from ...model import eval_mode, without_adapter
from ...plugins import resolve
from ..batching.loaders import batches_of, order_seed, real_tokens
from ..evaluation.evaluate import speed
from ..losses.policy import PolicySettings, StepItems, kl_estimate, loss_weights, policy_token_losses
from ..preference.reference import scoring_reference
from ..token_scores import TokenScores
from ..trainer import Trainer
from .completions import Batch, make_batch, mask_of, model_inputs, rows_of
from .log import RolloutLog
from .ranks import gather_records, sum_over_ranks
from .records import Record, columns_of, completion_of, known, records_of
from .rewards.reward_set import load_rewards
from .rollouts.environment import Replies, load_environment
from .rollouts.rollout import Engine, Rollout, roll_out, sampling_of, seed_of
from .rollouts.tools import load_tools
from .schedule import Place, RolloutSchedule
from .state import load_state, save_state

logger = get_logger(__name__)


class RolloutTrainer(Trainer):
    """Trains on the model's own completions.

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
        if self.compares:  # before the policy is changed, for a copy of its new forward would use the policy's weights
            self.reference = scoring_reference(model, everything["tokenizer"], args, everything["arguments"])
        super().__init__(model=model, **everything)
        self.sampling = sampling_of(args)
        kind = resolve("rollouts", args.rlhf.rollout_engine)
        self.engine: Engine = kind(self.model, self.template, self.sampling, args)
        self.rewards = load_rewards(args, self.processing_class, self.template, self.model)
        self.toolbox = load_tools(args.rlhf.rollout_tools) if args.rlhf.rollout_tools else None
        world = args.rlhf.rollout_environment
        self.replies = Replies(self.toolbox, load_environment(world) if world else None, world or "")
        self.rollout_log = RolloutLog(str(self.args.output_dir))
        self.buffer: list[list[Batch]] | None = None
        self.judged = False  # whether some completion of this run has a reward
        self.schedule: RolloutSchedule
        if self.train_dataset is not None:
            self.schedule = self._schedule()

    # What a stage decides

    @abstractmethod
    def needs_reference(self, args: TrainArgs) -> bool:
        """Whether the stage compares the policy with a reference."""

    @abstractmethod
    def repeats(self) -> tuple[int, int, int]:
        """Return completions of each prompt, optimizer steps in a rollout, passes over it."""

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
        completions, buffer, passes = self.repeats()
        args = self.args
        step = self._train_batch_size * args.gradient_accumulation_steps * args.world_size
        if step % completions:
            raise ConfigError(
                f"num_generations: {completions} does not divide the {step} answers of an optimizer step "
                "(per_device_train_batch_size x gradient_accumulation_steps x processes)"
            )
        if len(self.train_dataset) * completions < step:
            raise ConfigError(
                f"dataset: {len(self.train_dataset)} prompts, an optimizer step needs {-(-step // completions)}; "
                "lower per_device_train_batch_size or gradient_accumulation_steps"
            )
        return RolloutSchedule(
            len(self.train_dataset),
            completions,
            self._train_batch_size,
            args.gradient_accumulation_steps,
            buffer,
            passes,
            args.process_index,
            args.world_size,
            order_seed(args, self.run_args),
        )

    def get_train_dataloader(self) -> Any:
        return batches_of(self.train_dataset, self.schedule, self.collator, self.args)

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
        counts = torch.tensor(_step_counts(batches), dtype=torch.float64, device=device)
        counts = sum_over_ranks(counts)
        self.tokens.add(counts[2:])
        completions, tokens = counts[:2].clamp(min=1).float()
        step = {"step": (completions, tokens)}
        return [{**batch, **step, "items": len(batch["lengths"])} for batch in batches], completions

    # Loss

    def token_scores(self, model: nn.Module, inputs: dict[str, Any], evaluating: bool = False) -> TokenScores:
        return model(**model_inputs(inputs), score=True, entropy=True, temperature=self.sampling.temperature)

    def loss_sums(self, scores: TokenScores, inputs: dict[str, Any]) -> dict[str, Tensor]:
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
        if "drawn" in inputs:  # how far the engine's numbers are from those of training, for the same weights
            gap = (old - rows_of(inputs["drawn"], lengths)).abs() * mask
            sums |= {"rollout_gap": gap.sum(), "rollout_gap:items": tokens}
        if ref is not None and self.settings.beta:
            sums |= {"kl": (kl_estimate(log_probs.detach(), ref) * mask).sum(), "kl:items": tokens}
        return sums

    # Rollouts

    def _make(self, place: Place) -> list[list[Batch]]:
        """Complete the prompts of a rollout, reward the completions and credit their tokens."""
        start = time.perf_counter()
        rows, parts = self.schedule.rows(place), self.schedule.rollout(place)
        slots = [slot for step in parts for micro in step for slot in micro]
        seed = order_seed(self.args, self.run_args) or self.args.seed
        seeds = [seed_of(seed, place.first, *rows[slot]) for slot in slots]
        rollouts = self._roll_out(self.train_dataset, [rows[slot][0] for slot in slots], seeds, greedy=False)
        records = self._reward(rollouts, slots)
        rewards = torch.tensor([record["reward"] for record in records], dtype=torch.float64)
        self._require_opinion(rewards)
        at = dict(zip(slots, rollouts, strict=True))
        batches = [
            [
                make_batch([at[slot] for slot in micro], self.collator, micro, [rows[slot][0] for slot in micro])
                for micro in step
            ]
            for step in parts
        ]
        flat = [batch for step in batches for batch in step]
        self._look_back(flat)
        advantages, means = self.credit(flat, rewards)
        for record, advantage in zip(records, advantages.tolist(), strict=True):
            record["advantage"] = advantage
        columns = columns_of(records, self.rewards.names)
        self._add_means({**columns, **means, "rollout_seconds": [time.perf_counter() - start]})
        if self.is_world_process_zero():
            self.rollout_log.write(place.first + 1, records)
        return batches

    def _require_opinion(self, rewards: Tensor) -> None:
        """Refuse to train on nothing; a single rollout that no reward has an opinion on is only said.

        Raises:
            ConfigError: It is the first one of this run.
        """
        if not rewards.isnan().all():
            self.judged = True
            return
        problem = (
            f"reward_funcs: {', '.join(self.rewards.names)} gave None for all {len(rewards)} completions of step "
            f"{self.state.global_step + 1}, so nothing can be learned from them"
        )
        if not self.judged:
            raise ConfigError(f"{problem}; a reward is a number, None only where it has no opinion")
        logger.warning_rank0(problem)

    def _roll_out(self, dataset: Any, rows: Sequence[int], seeds: Sequence[int], greedy: bool) -> list[Rollout]:
        """Complete the prompts of rows."""
        rollouts = [self._prompt(dataset[row], seed) for row, seed in zip(rows, seeds, strict=True)]
        self.engine.sync()
        rlhf = self.run_args.rlhf
        answered = rlhf.rollout_tools or rlhf.rollout_environment
        reply, rounds = (self.replies, rlhf.max_tool_rounds) if answered else (None, 0)
        with self.accelerator.autocast():
            roll_out(self.engine, rollouts, self.template, self.sampling.limit, greedy, reply, rounds)
        return rollouts

    def _prompt(self, features: dict[str, Any], seed: int) -> Rollout:
        """Return the prompt of a row, nothing behind it yet."""
        given = json.loads(features["rollout"])
        messages = [Message.from_openai(message) for message in given["messages"]]
        tools, ids = given["tools"], features["input_ids"]
        (media,) = features.get("media") or [[]]
        kinds = self.template.media.kinds if self.template.media and "media" in features else ()
        columns = {**{f"{kind}s": [] for kind in kinds}, **given["columns"], "reference": given["reference"]}
        rollout = Rollout(messages, ids, seed, tools, columns=columns, media=media)
        observed = self.replies.begin(rollout)
        if observed:
            last = messages[-1]
            messages[-1] = replace(last, parts=(*last.parts, Part("text", f"\n\n{observed}")))
        if self.toolbox is not None:
            rollout.tools = self.toolbox.descriptions
        if observed or self.toolbox is not None:
            segments = self.template.encode_asked(Sample(tuple(messages), tuple(rollout.tools)))
            rollout.prompt, rollout.media = ids_of(segments), media_in(segments)
        return rollout

    def _reward(self, rollouts: list[Rollout], slots: Sequence[int]) -> list[Record]:
        """Return the records of all ranks' rollouts in the order of slots; all ranks call this together."""
        scores = self.rewards([completion_of(rollout) for rollout in rollouts])
        mine = records_of(rollouts, slots, scores, self.processing_class.decode)
        records = sorted(gather_records(mine, self.args.device), key=lambda record: record["slot"])
        for record in records:
            del record["slot"]
        return records

    @torch.no_grad()
    def _look_back(self, batches: list[Batch]) -> None:
        """Put ``old``, ``ref`` and ``values`` [N], where the stage needs them, into the batches."""
        options = {"score": True, "temperature": self.sampling.temperature}
        with eval_mode(self.accelerator.unwrap_model(self.model)) as policy:
            for batch in batches:
                inputs = self._prepare_inputs(model_inputs(batch))
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

    def _add_means(self, values: dict[str, Sequence[float]]) -> None:
        """Log means of values that all ranks know; nan is left out."""
        sums: dict[str, Tensor] = {}
        for name, some in values.items():
            total = torch.tensor(known(some), dtype=torch.float64)
            share = float(self.is_world_process_zero())  # the ranks' sums are added when they are logged
            sums |= {name: share * total.sum(), f"{name}:items": torch.tensor(share * len(total))}
        self.means.add({name: value.to(self.args.device) for name, value in sums.items()}, 0)

    # Evaluation, logs, checkpoints

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Reward completions of each evaluation set: ``eval_reward``, ``eval_<name>_reward`` …"""
        sets = self.eval_dataset if eval_dataset is None else eval_dataset
        sets = sets if isinstance(sets, dict) else {"": sets}
        start, metrics = time.perf_counter(), dict[str, float]()
        everything: list[Record] = []
        for name, rows in sets.items():
            mine = list(range(self.args.process_index, len(rows), self.args.world_size))
            seeds = [seed_of(self.args.seed, "eval", row) for row in mine]
            greedy = self.run_args.rlhf.eval_rollouts == "greedy"
            records = self._reward(self._roll_out(rows, mine, seeds, greedy), mine)
            everything += records
            if name:
                metrics |= self._means_of(records, f"{metric_key_prefix}_{name}")
        metrics |= self._means_of(everything, metric_key_prefix)
        metrics |= speed(len(everything), start, metric_key_prefix)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _means_of(self, records: list[Record], prefix: str) -> dict[str, float]:
        columns = columns_of(records, self.rewards.names)
        values = {f"{prefix}_{name}": known(column) for name, column in columns.items()}
        return {name: sum(some) / len(some) for name, some in values.items() if some}

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


def _step_counts(batches: list[Batch]) -> tuple[float, float, int, int]:
    """Return completions and tokens that count in the loss of a step, its trained tokens, its tokens but padding."""
    return (
        sum(float(batch["kept"].sum()) for batch in batches),
        sum(float((batch["kept"] * torch.tensor(batch["lengths"])).sum()) for batch in batches),
        sum(batch["positions"].numel() for batch in batches),
        sum(map(real_tokens, batches)),
    )
