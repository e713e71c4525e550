"""Cards: the ``README.md`` of a run, checkpoint or dataset, in the Hugging Face hub's format.

A card is generated from what is on disk and ends in a mark that holds a hash of it. A card without a right mark was written or changed by a person
and is never overwritten. No hash of a checkpoint or dataset covers the card. Numbers stand in the tables of the evaluations, with floors and
intervals; the hub's own result widget shows a number alone, so no card fills it.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lewm.checkpoint import checkpoint_sha256, find_checkpoint, list_checkpoints, read_description
from lewm.data.durable import write_atomically
from lewm.data.info import describe_dataset
from lewm.data.layout import META_FILE
from lewm.errors import LewmError
from lewm.report.evidence import Evidence, read_evidence

CARD_FILE = "README.md"
UNKNOWN_REPOSITORY = "NAMESPACE/NAME"
"""Stands for the repository while it is not known."""
MAX_TABLE_CHARACTERS = 6000
"""A longer table is named, not shown."""
_MARK = "<!-- Written by lewm, content {digest}. Edit this page and lewm leaves it alone. -->\n"
_MARK_PATTERN = re.compile(r"<!-- Written by lewm, content ([0-9a-f]{16})\. [^\n]* -->\n\Z")


def write_card(path: Path | str) -> bool:
    """Write or refresh the card of a run, checkpoint or dataset; False if a person's card stands there and was left alone."""
    directory = Path(path)
    file = directory / CARD_FILE
    if file.exists() and not is_generated(file.read_text(errors="replace")):
        return False
    write_atomically(file, card(directory).encode())
    return True


def is_generated(text: str) -> bool:
    """Whether a card is as it was generated."""
    mark = _MARK_PATTERN.search(text)
    return mark is not None and mark.group(1) == _digest(text[: mark.start()])


def card(path: Path | str, repo_id: str = UNKNOWN_REPOSITORY) -> str:
    """The card of a run (its newest checkpoint), checkpoint or dataset; ``repo_id`` is where the hub keeps it."""
    directory = Path(path)
    text = dataset_card(directory, repo_id) if (directory / META_FILE).exists() else model_card(directory, repo_id)
    return text + _MARK.format(digest=_digest(text))


def model_card(path: Path, repo_id: str) -> str:
    """The text of a run's or checkpoint's card, without the mark."""
    checkpoint = find_checkpoint(path)
    description = read_description(checkpoint)
    config, provenance, env = description["config"], description["provenance"], description["env"]
    world = str(env.get("name") or "recordings without a simulator")
    evidence = read_evidence(path) if list_checkpoints(path) else None
    facts = {
        "checkpoint": f"step {description['step']:,}, sha256 `{checkpoint_sha256(checkpoint)}`",
        "data": f"sha256 `{provenance.get('dataset_sha256', 'unknown')}`, {_number_of(provenance.get('episode_seeds'))} episodes (held-out included)",
        "world": f"{world}{_options(env.get('options'))}",
    }
    parts = [
        _front_matter({"library_name": "lewm", "tags": ["lewm", "world-model", "jepa", "leworldmodel", "planning", *_tag(env)]}),
        f"# LeWorldModel: {world}",
        "A world model trained end to end from raw pixels and actions, without rewards: it predicts the next latent, and a planner searches its"
        " predictions for actions that lead to a goal image (LeWorldModel, arXiv 2603.19312). This page was generated from the files beside it.",
        "## Load",
        _code("bash", f"pip install 'lewm[hub]'\nlewm pull {repo_id} DIR\nlewm info DIR"),
        _code("python", 'import lewm\n\ncheckpoint = lewm.load_checkpoint("DIR")\npolicy = lewm.load_policy("DIR")  # plans towards goal images'),
        "## Recipe",
        _table(facts | _recipe(config, description["observation_spec"], description["action_spec"])),
        _code("text", str(provenance.get("command") or "trained from Python, no command recorded")),
        "## Results",
        *_results(evidence),
        "## Limits",
        _bullets(_model_limits(world, description)),
        "## Versions",
        _table(dict(provenance.get("versions", {})) | {"hardware": provenance.get("hardware", "unknown")}),
    ]
    return "\n\n".join(parts) + "\n\n"


def dataset_card(path: Path, repo_id: str) -> str:
    """The text of a dataset's card, without the mark."""
    about = describe_dataset(path)
    env, provenance = about["env"], about["provenance"]
    world, actor = str(env.get("name") or "recordings without a simulator"), str(about["policy"].get("name", "this policy"))
    columns = {name: f"{column['dtype']} {column['shape']} per row" for name, column in about["columns"].items()}
    parts = [
        _front_matter({"tags": ["lewm", "world-model", *_tag(env)], "viewer": False}),
        f"# Episodes of {world}",
        "Frames and actions for training a world model from pixels, in the native format of lewm: sharded, memory-mapped, checksummed `.npy` columns."
        " This page was generated from the files beside it.",
        "## Load",
        _code("bash", f"pip install 'lewm[hub]'\nlewm pull {repo_id} DIR\nlewm info DIR --verify\nlewm train --data DIR --preset laptop --out RUN"),
        _code("python", 'import lewm\n\nstore = lewm.EpisodeStore("DIR")\nepisode = store.episode(0)  # observations, actions, labels'),
        "## Content",
        _table(_dataset_facts(about, world)),
        "A row is an observation; an action stands in the row where its transition starts, so the last row of an episode has none.",
        _table(columns),
        "## How it was made",
        _code("text", str(provenance.get("command") or "written from Python, no command recorded")),
        "## Limits",
        _bullets(
            (
                f"It shows what `{actor}` does in this world: what it never does, a model of the data never sees.",
                "Labels are the simulator's truth, for probes and success predicates. LeWorldModel trains on frames and actions alone.",
                "The data hash names the content and does not vouch for this page. `lewm info DIR --verify` checks the files against it.",
            )
        ),
        "## Versions",
        _table(dict(provenance.get("versions", {})) or {"lewm": "unknown"}),
    ]
    return "\n\n".join(parts) + "\n\n"


def _dataset_facts(about: Mapping[str, Any], world: str) -> dict[str, str]:
    env, policy, lengths = about["env"], about["policy"], about["episode_env_steps"]
    return {
        "world": f"{world}{_options(env.get('options'))}, version {env.get('version', 'unknown')}",
        "who acted": f"{policy.get('name', 'unknown')}{_options(policy.get('options'))}",
        "episodes": f"{about['num_episodes']:,}, of {lengths['min']} to {lengths['max']} env steps (mean {lengths['mean']:g})",
        "env steps": f"{about['num_env_steps']:,}",
        "frames": _frames(about["observation_spec"]),
        "actions": _actions(about["action_spec"]),
        "labels": ", ".join(about["label_names"]) or "none",
        "size": f"{about['bytes']:,} bytes in {about['num_shards']} shards",
        "collection": _options(about["collection"]).strip() or "unknown",
        "data hash": f"`{about['dataset_sha256']}`",
    }


def _recipe(config: Mapping[str, Any], observation_spec: Mapping[str, Any], action_spec: Mapping[str, Any]) -> dict[str, str]:
    """The settings that decide what was trained and how it plans; ``config.json`` has all of them."""
    encoder, predictor, objective, train, planner = (config[name] for name in ("encoder", "predictor", "objective", "train", "planner"))
    return {
        "frames": _frames(observation_spec),
        "actions": f"{_actions(action_spec)}; blocks of {config['data']['action_block']} env steps",
        "encoder": f"{encoder['name']}, latent dimension {config['model']['latent_dimension']}",
        "predictor": f"{predictor['num_layers']} layers of width {predictor['width']}, history {config['model']['history_model_steps']} model steps",
        "objective": f"{objective['name']}, weight {objective['weight']:g}, {objective['num_directions']:,} directions",
        "training": f"{train['num_steps']:,} steps, batch {train['batch_size']}, learning rate {train['learning_rate']:g}, seed {train['seed']},"
        f" precision {train['precision']}",
        "planner": f"{planner['name']}: {planner['num_candidates']} candidates, {planner['num_iterations']} iterations, horizon"
        f" {planner['horizon_model_steps']} model steps, replanning every {planner['replan_every_model_steps']}",
    }


def _results(evidence: Evidence | None) -> list[str]:
    """Every measurement of this checkpoint as the evaluation prints it."""
    if evidence is None:
        return ["None are kept beside a single checkpoint: they belong to its run."]
    shown = [part for results in evidence.results.values() for result in results for part in _result(result)]
    if not shown:
        shown = ["Not measured. `lewm eval success RUN --json RUN/results/success.json` measures success with floors and intervals."]
    return shown + ([_bullets(evidence.notes)] if evidence.notes else [])


def _result(result: Mapping[str, Any]) -> tuple[str, ...]:
    name = f"**{result['evaluation']}** (`{result['file']}`)"
    try:
        table = _printed(dict(result))
    except (KeyError, TypeError, ValueError, AttributeError, LewmError) as error:  # a file that another version or a person wrote
        return (f"{name} cannot be shown: {error!r}.",)
    if len(table) > MAX_TABLE_CHARACTERS:
        return (f"{name}: too long for this page.",)
    check = f" `lewm verify {result['file']}` replays it." if result["evaluation"] == "success" or "conditions" in result else ""
    command = f" Command: `{result['command']}`." if result.get("command") else ""
    return (f"{name}.{check}{command}", _code("text", table))


def _printed(result: dict[str, Any]) -> str:
    from lewm.evaluation.printing import printed

    return printed(result)


def _model_limits(world: str, description: Mapping[str, Any]) -> tuple[str, ...]:
    repeat = description["action_spec"].get("action_repeat", 1)
    return (
        f"It knows one world, {world}, at this frame size, from these cameras, with these actions (repeat {repeat}); elsewhere it is untested.",
        "Rates are those of one training seed. Their intervals cover the draw of start/goal pairs, not the draw of the seed.",
        "Success is measured on goals from fresh episodes, under the protocol named with it, and is not comparable with tables of other protocols.",
        "A plan is as good as model and search: it can fail, without notice, where the data did not go. Do not let it move hardware unsupervised.",
        "The checkpoint records the command, the versions and the hash of the data, not who owns the data or under which licence it stands.",
    )


def _front_matter(values: Mapping[str, Any]) -> str:
    """YAML, in which every JSON value is valid."""
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in values.items()), "---"])


def _tag(env: Mapping[str, Any]) -> list[str]:
    """The world as a tag of the hub."""
    return [str(env["name"]).replace("/", "-")] if env.get("name") else []


def _code(language: str, text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _table(rows: Mapping[str, Any]) -> str:
    cells = ["| | |", "|---|---|", *(f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in rows.items())]
    return "\n".join(cells)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _options(values: Any) -> str:
    """Settings in words, or nothing."""
    return " (" + ", ".join(f"{name} {json.dumps(value)}" for name, value in values.items()) + ")" if values else ""


def _frames(spec: Mapping[str, Any]) -> str:
    stack = f", stacked at env steps {list(spec['stack_offsets_env_steps'])}" if len(spec["stack_offsets_env_steps"]) > 1 else ""
    return f"{spec['height_px']} x {spec['width_px']} px RGB, cameras {', '.join(spec['cameras'])}{stack}"


def _actions(spec: Mapping[str, Any]) -> str:
    if spec["kind"] == "discrete":
        return f"{spec['num_choices']} choices"
    return f"{len(spec['low'])} dimensions within {list(spec['low'])} and {list(spec['high'])}" if spec["kind"] == "continuous" else "none"


def _number_of(seeds: Sequence[int] | None) -> str:
    return "an unknown number of" if seeds is None else f"{len(seeds):,}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
