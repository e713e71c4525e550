"""``lewm convert`` for weights: the official LeWorldModel's as checkpoints of lewm, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lewm.commands.parsing import command_line, parse, parse_options, show
from lewm.errors import ConfigError


@dataclass(frozen=True)
class ConvertWeightsArguments:
    """Turn weights of the official LeWorldModel into a checkpoint, or a run or checkpoint of that architecture into the official layout."""

    source: tyro.conf.Positional[str]
    """Folder with config.json and weights, a weight file, a repository of the Hugging Face hub (owner/name), or a run or checkpoint of lewm."""
    destination: tyro.conf.Positional[Path]
    """Directory to write; it must not exist."""
    to: Literal["checkpoint", "official"] = "checkpoint"
    """What to write."""
    names: Literal["transformers5", "transformers4"] = "transformers5"
    """With --to official: which version of transformers the encoder's names are for."""
    data: Path | None = None
    """Dataset that the action statistics, their bounds and the world are taken from."""
    action_mean: tuple[float, ...] = ()
    """Mean of each action dimension, in env units, in place of --data."""
    action_std: tuple[float, ...] = ()
    """Standard deviation of each action dimension."""
    action_low: tuple[float, ...] = ()
    """Lower bound of each action dimension; default: the dataset's, or -1."""
    action_high: tuple[float, ...] = ()
    """Upper bound of each action dimension; default: the dataset's, or 1."""
    action_block: int = 5
    """Env steps per model step: the official frameskip."""
    pixel_mean: tuple[float, float, float] | None = None
    """Mean of the colour channels, as a share of 0..1; default: ImageNet's."""
    pixel_std: tuple[float, float, float] | None = None
    """Standard deviation of the colour channels; default: ImageNet's."""
    env: str | None = None
    """World that the model is for; default: the dataset's, or none."""
    env_option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE for the world, repeatable; size_px is the model's own unless given."""
    revision: str | None = None
    """Commit, branch or tag of a repository of the hub."""


def is_weights(source: str) -> bool:
    """Whether a source is weights: see ``lewm.official_weights.is_weights``."""
    from lewm.official_weights import is_weights as has_weights

    return has_weights(source)


def convert_weights(words: Sequence[str]) -> None:
    """Convert weights: ``SRC DST`` and the flags of ``ConvertWeightsArguments``."""
    arguments = parse(ConvertWeightsArguments, "convert", words)
    from lewm.official_weights import export_official, import_official, is_own

    if arguments.to == "official":
        if not is_own(Path(arguments.source)):
            raise ConfigError(f"--to official needs a run or checkpoint of lewm, and {arguments.source!r} is none")
        export_official(arguments.source, arguments.destination, arguments.names)
        show(f"wrote {arguments.destination}: config.json, model.safetensors\n{_lost(arguments.source)}")
        return
    if is_own(Path(arguments.source)):
        raise ConfigError(f"{arguments.source!r} is a checkpoint of lewm already; --to official writes it in the official layout")
    given, env, origin = _given(arguments)
    provenance = origin | {"command": command_line("convert", words)}
    import_official(arguments.source, arguments.destination, given, env=env, revision=arguments.revision, provenance=provenance)
    show(f"wrote {arguments.destination}: a checkpoint for {env.get('name', 'no world in particular')}")


def _given(arguments: ConvertWeightsArguments) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Preprocessing, world and where the action statistics came from."""
    from lewm.data.episodes import EpisodeStore
    from lewm.official_weights import Preprocessing
    from lewm.schema import ActionSpec

    store = None if arguments.data is None else EpisodeStore(arguments.data)
    mean, std, low, high = arguments.action_mean, arguments.action_std, arguments.action_low, arguments.action_high
    if bool(mean) != bool(std):
        raise ConfigError("--action-mean and --action-std belong together: give both, or --data DATASET")
    origin: dict[str, Any] = {"action_statistics": "given"}
    if not mean:
        if store is None:
            raise ConfigError(
                "official weights come without the statistics of their actions: give --action-mean and --action-std, one number per dimension, "
                "or --data DATASET with the data that they were trained on"
            )
        mean, std = store.action_statistics(store.episode_ids)
        origin = {"action_statistics": {"dataset_sha256": store.dataset_sha256}}
    own = None if store is None or store.action_spec.kind != "continuous" else store.action_spec
    low = low or (own.low if own else (-1.0,) * len(mean))
    high = high or (own.high if own else (1.0,) * len(mean))
    spec = ActionSpec(kind="continuous", low=low, high=high, action_repeat=own.action_repeat if own else 1)
    pixels = {name: value for name in ("pixel_mean", "pixel_std") if (value := getattr(arguments, name)) is not None}
    given = Preprocessing(action_spec=spec, action_mean=mean, action_std=std, action_block=arguments.action_block, **pixels)
    return given, _world(arguments, {} if store is None else store.env), origin


def _world(arguments: ConvertWeightsArguments, recorded: dict[str, Any]) -> dict[str, Any]:
    """Name, version and options of the world as a checkpoint records them; empty where there is none."""
    from lewm.registry import ENVS

    options = parse_options(arguments.env_option, "--env-option")
    name = arguments.env or recorded.get("name")
    if name is None:
        if options:
            raise ConfigError("--env-option is for a world: name it with --env")
        return {}
    if name == recorded.get("name"):
        return recorded | {"options": dict(recorded.get("options", {})) | options}
    return {"name": name, "version": ENVS.load(name).VERSION, "options": options}


def _lost(source: str) -> str:
    """What the official layout has no place for, as the flags that bring it back."""
    from lewm.checkpoint import load_checkpoint

    model = load_checkpoint(source).model
    mean, std = model.action_statistics()
    flags = {"--action-mean": mean, "--action-std": std, "--action-low": model.action_spec.low, "--action-high": model.action_spec.high}
    words = " ".join(f"{flag} {' '.join(f'{value!r}' for value in values)}" for flag, values in flags.items())
    return f"not in it, and needed to convert it back: {words} --action-block {model.action_block}"
