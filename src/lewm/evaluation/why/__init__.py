"""Why plans fail: which part of an agent is to blame, and whether the agent knows."""
