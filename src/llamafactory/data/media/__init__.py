# SPDX-License-Identifier: Apache-2.0
"""Images, videos and sound of a conversation: reading them, their place in the text, the model's inputs."""
