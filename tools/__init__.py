"""Tools that a model can call: one file each; its name is its id (see `agentrl.tool`)."""
