# SPDX-License-Identifier: Apache-2.0
"""OpenCoder."""

from dataclasses import replace

from .chatml import chatml

opencoder = replace(chatml, name="opencoder", default_system="You are OpenCoder, created by OpenCoder Team.")
