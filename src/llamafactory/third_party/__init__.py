# SPDX-License-Identifier: Apache-2.0
"""Where scripts for LLaMA-Factory import others' modules from; each is its authors' or torch's own."""
