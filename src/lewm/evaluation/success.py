"""``lewm eval success``: how often a policy reaches goals that it never trained on, beside what blind policies achieve."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from lewm.evaluation.dataset_pairs import make_pairs
from lewm.evaluation.dataset_protocols import protocol_options
from lewm.evaluation.outcomes import Outcome, PlanTimes, run_policy, scripted_policy
from lewm.evaluation.prepared_pairs import PreparedPairs
from lewm.evaluation.protocol import Manifest, check_disjoint
from lewm.evaluation.results import References, assemble, run_references, run_scripted_on, settings_words
from lewm.versions import hardware, versions

if TYPE_CHECKING:  # importing it would import torch, which reading a result does not need
    from lewm.planning.base import Policy

Progress = Callable[[str], None]


@runtime_checkable
class TakesNotes(Protocol):
    """A policy that has something to say, after it acted, about how."""

    def notes(self) -> dict[str, Any]:
        """For the ``planner`` of a result; JSON-ready."""


@runtime_checkable
class Watched(Protocol):
    """A policy whose plans somebody looks at."""

    @property
    def watch(self) -> Any:
        """None, or who has a ``note`` on the pairs afterwards."""


@runtime_checkable
class OnDevice(Protocol):
    """A policy whose networks are somewhere."""

    @property
    def device(self) -> Any:
        """A ``torch.device``."""


NUM_LATENCY_EPISODES = 20


def evaluate_success(
    policy: "Policy",
    *,
    env: str,
    env_options: dict[str, Any],
    distances: Sequence[int],
    num_pairs: int,
    seed: int,
    protocol: str = "heldout",
    data_policy: str | None = None,
    is_rest_start: bool = False,
    is_stitched: bool = False,
    strata: Sequence[str] | None = None,
    pair_data: Path | str | None = None,
    prepared: PreparedPairs | None = None,
    planner: dict[str, Any],
    checkpoint_sha256: str,
    dataset_sha256: str,
    training_episode_seeds: np.ndarray | None,
    command: str,
    num_latency_episodes: int = NUM_LATENCY_EPISODES,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make the pairs, let the policy try them, and return the result as JSON-ready values with floors, ceiling, intervals and hashes.

    ``num_pairs`` per distance and stratum; the settings of the pairs are those of ``make_pairs``, with ``pair_data`` as the dataset. In protocol
    ``heldout`` ``training_episode_seeds`` proves that no pair comes from a training episode (``DataError`` otherwise); None where the training set is
    not known. ``prepared`` are pairs that were made before, of these settings (``ConfigError`` otherwise), with floors and ceiling. What the fields
    mean is in ``results.py``.
    """
    settings: dict[str, Any] = {"distances": distances, "num_pairs": num_pairs, "seed": seed, "protocol": protocol}
    settings |= {"data_policy": data_policy, "is_rest_start": is_rest_start, "is_stitched": is_stitched, "strata": strata}
    if prepared is not None:
        prepared.check(env=env, env_options=env_options, **{name: value for name, value in settings.items() if value is not None})
        manifest = prepared.manifest
    else:
        if progress is not None:
            progress(f"making {num_pairs} pairs per distance and stratum")
        manifest = make_pairs(env, env_options, data=pair_data, **settings)
    if training_episode_seeds is not None and manifest.dataset is None:
        check_disjoint(manifest, training_episode_seeds)
    return evaluate(
        policy,
        manifest,
        references=None if prepared is None else prepared.references,
        num_latency_episodes=num_latency_episodes,
        progress=progress,
        unverified={
            "checkpoint_sha256": checkpoint_sha256,
            "dataset_sha256": dataset_sha256,
            "num_training_episodes": None if training_episode_seeds is None else len(training_episode_seeds),
            "planner": planner,
            "command": command,
        },
    )


def evaluate(
    policy: "Policy",
    manifest: Manifest,
    *,
    references: References | None = None,
    unverified: dict[str, Any] | None = None,
    num_latency_episodes: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The result of a policy on the pairs of a manifest.

    ``references`` are those of the manifest, if they were run before; ``unverified`` adds what is known about the policy (checkpoint, planner, ...).
    """
    outcomes, times = run_episodes(policy, manifest, progress=progress)
    if isinstance(policy, TakesNotes):
        unverified = _with_notes(unverified, policy.notes())
    if isinstance(policy, Watched) and policy.watch is not None:
        unverified = _with_notes(unverified, policy.watch.note({manifest.policy_seed(pair): pair.id for pair in manifest.pairs}))
    single = time_single_plans(policy, manifest, num_latency_episodes)
    plan_ms = _plan_ms(times, single, str(policy.device) if isinstance(policy, OnDevice) else "cpu")
    return _completed(manifest, outcomes, (unverified or {}) | {"plan_ms": plan_ms}, progress, references)


def _with_notes(unverified: dict[str, Any] | None, notes: dict[str, Any]) -> dict[str, Any]:
    known = unverified or {}
    return known | {"planner": known.get("planner", {}) | notes}


def evaluate_scripted(
    name: str,
    *,
    policy_options: dict[str, Any] | None = None,
    env: str,
    env_options: dict[str, Any],
    command: str = "",
    progress: Progress | None = None,
    prepared: PreparedPairs | None = None,
    **pairs: Any,
) -> dict[str, Any]:
    """The result of a scripted policy, such as ``search``, on the pairs of ``make_pairs``, whose other arguments are ``pairs``.

    The policy sees the true state: the result has no checkpoint, and ``planner`` names the policy. ``prepared`` are these very pairs, made before.
    """
    policy = scripted_policy(env, name, **(policy_options or {}))
    if "protocol" in pairs:
        env_options = env_options | protocol_options(pairs["protocol"], env, env_options)
    if prepared is not None:
        prepared.check(env=env, env_options=env_options, **pairs)
    manifest = make_pairs(env, env_options, **pairs) if prepared is None else prepared.manifest
    if progress is not None:
        progress(f"running policy {name} on {len(manifest.pairs)} pairs")
    outcomes = run_scripted_on(manifest, policy)
    planner = {"policy": name, "policy_options": policy_options or {}}
    references = None if prepared is None else prepared.references
    return _completed(
        manifest, outcomes, {"planner": planner, "command": command, "plan_ms": _plan_ms(PlanTimes(), PlanTimes())}, progress, references
    )


def _completed(
    manifest: Manifest,
    outcomes: dict[str, Outcome],
    unverified: dict[str, Any],
    progress: Progress | None,
    references: References | None = None,
) -> dict[str, Any]:
    """The result, with floors and ceiling on the same pairs."""
    if references is None and progress is not None:
        progress("running floors and expert")
    defaults: dict[str, Any] = {"checkpoint_sha256": None, "dataset_sha256": None, "num_training_episodes": None, "planner": {}, "command": ""}
    return assemble(manifest, outcomes, references or run_references(manifest), defaults | unverified | {"versions": versions()})


def run_episodes(policy: "Policy", manifest: Manifest, *, progress: Progress | None = None) -> tuple[dict[str, Outcome], PlanTimes]:
    """Let a policy try every pair, all pairs of a distance in one batch: outcomes by pair id, and what planning cost."""
    outcomes: dict[str, Outcome] = {}
    times = PlanTimes()
    for distance in manifest.distances:
        pairs = manifest.at(distance)
        found = run_policy(
            policy,
            manifest.env,
            manifest.env_options,
            [pair.start_state for pair in pairs],
            [pair.goal_state for pair in pairs],
            [manifest.policy_seed(pair) for pair in pairs],
            pairs[0].budget_env_steps,
            times=times,
            progress=None if progress is None else _step_progress(progress, distance, len(pairs)),
        )
        outcomes |= {pair.id: outcome for pair, outcome in zip(pairs, found, strict=True)}
    return outcomes, times


def time_single_plans(policy: "Policy", manifest: Manifest, num_episodes: int) -> PlanTimes:
    """What a plan costs when nothing shares its batch: the first plan of some episodes, one at a time."""
    times = PlanTimes()
    for pair in manifest.pairs[:num_episodes]:
        run_policy(
            policy,
            manifest.env,
            manifest.env_options,
            [pair.start_state],
            [pair.goal_state],
            [manifest.policy_seed(pair)],
            1,
            times=times,
        )
    return times


def success_table(result: dict[str, Any]) -> str:
    """The result as plain text: one line per distance and stratum, each rate with its interval, floors and n."""
    header = (
        "D",
        "stratum",
        "n",
        "budget",
        "success [95 %]",
        "random",
        "no-op",
        "block-random",
        "expert",
        "median steps",
        "- strongest floor [95 %]",
    )
    rows = [header]
    for distance, entry in result["by_distance"].items():
        for stratum, fields in entry["strata"].items():
            difference, median = fields["paired_difference"], fields["steps_to_success"]["median"]
            rows.append(
                (
                    distance,
                    stratum,
                    str(fields["n"]),
                    str(fields["budget_env_steps"]),
                    _interval(fields["success"]),
                    *(_interval(fields[name]) for name in ("random", "no_op", "block_random", "expert")),
                    "-" if median is None else f"{median:g}",
                    f"{_interval(difference)} p={difference['mcnemar_p']:.1g}",
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    plan_ms, protocol = result["plan_ms"], result["protocol"]
    single = plan_ms["single_episode"]
    alone = "" if single is None else f"; alone p50 {single['p50']:.0f} ms, p95 {single['p95']:.0f} ms"
    if plan_ms["num_calls"]:
        lines.append(f"one plan, amortised over its batch: p50 {_number(plan_ms['p50'])} ms, p95 {_number(plan_ms['p95'])} ms{alone}")
    lines += _dataset_lines(result)
    name = f"{protocol['name']} v{protocol['version']}"
    lines.append(f"{result['env']}, protocol {name}, manifest {protocol['manifest_sha256'][:12]}{settings_words(result['manifest'])}")
    return "\n".join(lines)


def _dataset_lines(result: dict[str, Any]) -> list[str]:
    """What a reader must know of pairs that come from a dataset."""
    dataset = result["manifest"].get("dataset")
    if dataset is None:
        return []
    trained_on = result["dataset_sha256"]
    is_training_set = trained_on == dataset["sha256"]
    lines = ["pairs from the training episodes: nothing here is held out"] if is_training_set else []
    if trained_on and not is_training_set:
        lines = ["pairs from another dataset than the run was trained on; whether it saw these episodes is not known"]
    for distance, entry in result["by_distance"].items():
        if "num_solved_at_start" in entry:
            lines.append(f"D = {distance}: {entry['num_solved_at_start']} of {entry['n']} starts were solved already and count as pairs")
    return lines


def _plan_ms(times: PlanTimes, single: PlanTimes, device: str = "cpu") -> dict[str, Any]:
    return {
        **_quantiles(times),
        "meaning": "a call of the planner divided by the episodes it planned for",
        "single_episode": _quantiles(single) if single.seconds else None,
        "hardware": hardware(device),
    }


def _quantiles(times: PlanTimes) -> dict[str, Any]:
    per_plan = times.per_plan_ms()
    if len(per_plan) == 0:
        return {"p50": None, "p95": None, "num_calls": 0}
    p50, p95 = np.quantile(per_plan, [0.5, 0.95])
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3), "num_calls": len(per_plan)}


def _step_progress(progress: Progress, distance: int, num_pairs: int) -> Callable[[int, int], None]:
    def report(env_step: int, num_running: int) -> None:
        if env_step % 10 == 0 or num_running == 0:
            progress(f"D = {distance}: env step {env_step} of {2 * distance}, {num_running} of {num_pairs} episodes running")

    return report


def _interval(estimate: dict[str, float] | None) -> str:
    return "-" if estimate is None else f"{estimate['rate']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
