# SPDX-License-Identifier: Apache-2.0
"""The parts of the page: each function builds one and gives its elements by name."""

from .data import create_data_tab
from .eval import create_eval_tab
from .export import create_export_tab
from .footer import create_footer
from .infer import create_infer_tab
from .jobs import create_jobs_tab
from .top import create_top
from .train import create_train_tab

__all__ = [
    "create_data_tab",
    "create_eval_tab",
    "create_export_tab",
    "create_footer",
    "create_infer_tab",
    "create_jobs_tab",
    "create_top",
    "create_train_tab",
]
