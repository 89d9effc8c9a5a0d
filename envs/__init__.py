"""Environments: one file or folder each; its name is its id (see `agentrl.env`)."""
