# SPDX-License-Identifier: Apache-2.0
"""``use_ray``: the same run in Ray's workers; Ray places them, joins them by torch, and starts them again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError, first_line
from ...extras.logging import end_bars, get_logger
from ...extras.packages import require
from ...hparams.rules.ray import amounts, mapping
from .notes import Notes
from .worker import train_in_worker

if TYPE_CHECKING:
    from ...hparams import TrainArgs

logger = get_logger(__name__)

_PIP = "'ray[default,train]>=2.51'"


def train_on_ray(args: TrainArgs, train: Callable[[dict[str, Any]], None], config: dict[str, Any]) -> None:
    """Train in Ray's workers and wait for them.

    Without an address in ``ray_init_kwargs`` or ``RAY_ADDRESS``, Ray runs on this machine alone.

    Args:
        args: The run's.
        train: What each worker runs, by its name in a module.
        config: ``args``, the configuration as it was written, and ``callbacks``: what it is given.

    Raises:
        ConfigError: A mistake in the configuration or its data that a worker met; Ray cannot run what is asked for.
        SystemExit: A worker failed more often than ``ray_max_failures``; the error of the first has been printed.
    """
    ray = require("ray", "use_ray", _PIP)
    trainers = require("ray.train.torch", "use_ray", _PIP)
    began = not ray.is_initialized()
    if began:
        ray.init(**mapping("ray_init_kwargs", args.ray.ray_init_kwargs))
    try:
        each = _resources(ray.cluster_resources(), args)
        _check_room(ray.cluster_resources(), each, args)
        notes = ray.remote(num_cpus=0)(Notes).remote()
        here = {"train": train, "notes": notes, "argv": sys.argv, "folder": os.getcwd()}
        trainer = trainers.TorchTrainer(
            train_in_worker,
            train_loop_config={**config, **here},
            scaling_config=ray.train.ScalingConfig(
                num_workers=args.ray.ray_num_workers,
                use_gpu=each.get("GPU", 0) > 0,
                resources_per_worker=each,
                placement_strategy=args.ray.placement_strategy,
            ),
            run_config=ray.train.RunConfig(
                name=args.ray.ray_run_name,
                storage_path=_storage(args),
                failure_config=ray.train.FailureConfig(max_failures=args.ray.ray_max_failures),
            ),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            _report(ray.get(notes.first.remote()), error)
        _report(ray.get(notes.mistake.remote()), None)
    finally:
        if began:
            ray.shutdown()


def _is_here(args: TrainArgs) -> bool:
    """Whether Ray is started for this run, rather than found."""
    return not (os.environ.get("RAY_ADDRESS") or mapping("ray_init_kwargs", args.ray.ray_init_kwargs).get("address"))


def _resources(cluster: Mapping[str, float], args: TrainArgs) -> dict[str, float]:
    """What each worker gets: as asked for, else an accelerator if the cluster has any, else a core."""
    asked = amounts(args.ray.resources_per_worker)
    if asked:
        return asked
    return {"GPU": 1} if cluster.get("GPU") and not args.training.use_cpu else {"CPU": 1}


def _check_room(cluster: Mapping[str, float], each: Mapping[str, float], args: TrainArgs) -> None:
    """Look whether the workers fit; a cluster that was there before may grow, and is waited for.

    Raises:
        ConfigError: They never will.
    """
    for name, number in each.items():
        wanted, there = number * args.ray.ray_num_workers, cluster.get(name, 0)
        if wanted > there:
            line = f"ray_num_workers: {args.ray.ray_num_workers} workers need {wanted:g} {name}, Ray has {there:g}"
            if _is_here(args):
                raise ConfigError(f"{line}; see resources_per_worker")
            logger.warning("%s; waiting for more", line)


def _storage(args: TrainArgs) -> str:
    """Where Ray keeps what it notes of a run; checkpoints and results are in ``output_dir``."""
    place = args.ray.ray_storage_path or str(Path(str(args.training.output_dir), ".ray"))
    return place if "://" in place else str(Path(place).expanduser().absolute())


def _report(note: dict[str, Any] | None, error: Exception | None) -> None:
    """Say what failed, as torchrun's runs do: the first error of the last attempt.

    Raises:
        ConfigError: It was a user's mistake, or no worker could say what it was.
        SystemExit: It was another error.
    """
    if note is None and error is None:
        return
    if note is None:
        raise ConfigError(f"use_ray: {first_line(error) if error else ''}".rstrip(": "))
    if note["user"]:
        raise ConfigError(note["text"].removeprefix("error: "))
    end_bars()
    sys.stdout.flush()
    print(f"\nrank {note['rank']} failed first:\n{note['text'].rstrip()}", file=sys.stderr)
    raise SystemExit(1)
