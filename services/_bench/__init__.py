"""What `agentrl bench services` measures: our wire and OpenEnv's, side by side."""
