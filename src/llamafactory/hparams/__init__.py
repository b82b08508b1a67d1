# SPDX-License-Identifier: Apache-2.0
"""What the user asked for: typed sections of flat keys, read and checked without torch."""

from .args import InferArgs, TrainArgs, to_dict
from .derive import Dtypes, resolve_dtypes
from .field import arg, split_list
from .parser import get_eval_args, get_infer_args, get_ray_args, get_train_args, read_args

__all__ = [
    "Dtypes",
    "InferArgs",
    "TrainArgs",
    "arg",
    "get_eval_args",
    "get_infer_args",
    "get_ray_args",
    "get_train_args",
    "read_args",
    "resolve_dtypes",
    "split_list",
    "to_dict",
]
