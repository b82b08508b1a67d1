# SPDX-License-Identifier: Apache-2.0
"""Rows that are encoded while the run goes on."""
