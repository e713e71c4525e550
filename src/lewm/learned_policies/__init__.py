"""Policies learnt offline from the same pixels and actions as a world model, with an encoder of the same size: floors for planners."""
