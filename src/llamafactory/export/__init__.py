# SPDX-License-Identifier: Apache-2.0
"""Trained weights as folders and files that other programs load."""
