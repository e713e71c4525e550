"""What other people published for methods like these: their own numbers, under other protocols, with their budgets. Nothing here is comparable.

Their start/goal pairs come from training episodes, and many starts are solved already. D and the budget are env steps; n differs.
"""

from collections.abc import Mapping

PUBLISHED: Mapping[str, Mapping[str, str]] = {
    "two-room": {
        "random": ".26 (re-run; D 25, 50 steps)",
        "cem-paper": ".87 (LeWM; D 25, 50 steps); .27 (D 100)",
        "direct-intent": ".98 (INTACT; D 25, 50 steps)",
        "guarded-intent": ".98 (INTACT; D 25, 50 steps)",
        "direct-inverse-goal": "1.00 (2605.08732; D 25, 50 steps)",
        "cem-distance": ".92 (follow-up of 2608.10145; D 100, 50 steps); .98 (150 steps)",
        "gcbc": "1.00 (swm; D 25, 50 steps)",
    },
    "dmc/reacher-easy": {
        "random": ".13 (re-run; D 25, 50 steps)",
        "cem-paper": ".86 (LeWM; D 25, 50 steps)",
        "direct-intent": ".98 (INTACT; D 25, 50 steps)",
        "guarded-intent": ".97 (INTACT; D 25, 50 steps)",
        "direct-inverse-goal": "1.00 (2605.08732; D 25, 50 steps)",
    },
    "push-t": {
        "random": ".04 (re-run; D 25, 50 steps)",
        "cem-paper": ".96 (LeWM; D 25, 50 steps); .20 (D 100)",
        "gradient": ".84 (LeWM with Adam; D 25, 50 steps)",
        "direct-intent": ".86 (INTACT; D 25, 50 steps)",
        "guarded-intent": ".92 (INTACT; D 25, 50 steps)",
        "direct-inverse-goal": ".84 (2605.08732; D 25, 50 steps)",
        "gcbc": ".75 (swm; D 25, 50 steps)",
    },
    "ogbench/cube-single": {
        "random": ".49 (re-run; D 25, 50 steps)",
        "cem-paper": ".74 (LeWM; D 25, 50 steps)",
        "direct-intent": "1.00 (INTACT; D 25, 50 steps)",
        "guarded-intent": "1.00 (INTACT; D 25, 50 steps)",
        "direct-inverse-goal": ".99 (2605.08732; D 25, 50 steps)",
        "gcbc": ".84 (swm; D 25, 50 steps)",
    },
}
"""World -> method -> success with its source, distance and budget."""


def published(env: str, method: str) -> str:
    """The published figure for a method in a world; empty where none is known."""
    return PUBLISHED.get(env, {}).get(method, "")
