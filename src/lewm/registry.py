"""The visible tables of everything that has a name: one line per environment, planner, objective, encoder, format and evaluation.

To add one, write its file and add its line here. Other people's packages add theirs with ``lewm.register`` or with an entry point in the
group ``lewm.<table>`` (``lewm.envs``, ``lewm.planners``, ...). A checkpoint can name an entry but never adds one.
"""

import difflib
import importlib
import importlib.metadata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lewm.errors import ConfigError, MissingExtraError, UnknownNameError


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a named thing lives, what it is, and which extra it needs."""

    target: str
    """``module:attribute``, imported when the entry is looked up."""
    summary: str
    """One line for ``lewm list``."""
    extra: str | None = None
    """The extra of lewm that installs what the entry needs."""
    needs: tuple[str, ...] = ()
    """The distributions behind the extra, as pip calls them: named when one is missing."""
    members: str | None = None
    """Of a family: ``module:function`` that lists what comes after the slash."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that proposes the nearest known name and lists them all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    suggestion = f" Did you mean {close[0]!r}?" if close else ""
    return f"{suggestion} Known: {', '.join(names)}"


def unknown_member(kind: str, family: str, member: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that a family does not have."""
    return UnknownNameError(f"unknown {kind} {family + member!r}.{did_you_mean(family + member, [family + name for name in known])}")


class Table:
    """Names of one kind.

    A name that ends in ``/`` is a family: ``dmc/`` answers for every ``dmc/<domain>-<task>``. Its target is a function that makes the thing called
    by what comes after the slash, and refuses an unknown one with ``unknown_member``.
    """

    def __init__(self, kind: str, entries: dict[str, Entry], *, plural: str | None = None) -> None:
        self.kind = kind
        self.plural = plural or f"{kind}s"
        self._entries = entries
        self._has_read_entry_points = False

    def __iter__(self) -> Iterator[str]:
        self._read_entry_points()
        return iter(sorted(self._entries))

    def __contains__(self, name: str) -> bool:
        self._read_entry_points()
        return self._key(name) is not None

    def entry(self, name: str) -> Entry:
        """The entry called ``name``; ``UnknownNameError`` with a suggestion if there is none."""
        return self.matched(name)[1]

    def matched(self, name: str) -> tuple[str, Entry]:
        """What answers for ``name``: its own entry or its family's, and what that is called; ``UnknownNameError`` if there is none."""
        self._read_entry_points()
        key = self._key(name)
        if key is None:
            raise UnknownNameError(f"unknown {self.kind} {name!r}.{did_you_mean(name, self._entries)}")
        return key, self._entries[key]

    def load(self, name: str) -> Any:
        """Import and return what ``name`` stands for; ``MissingExtraError`` names the extra when its package is not installed."""
        entry = self.entry(name)
        if name.endswith("/") and name in self._entries:
            known = ", ".join(name + member for member in self.members(name))
            raise UnknownNameError(f"{self.kind} {name!r} is a family, not one {self.kind}: say which of its members. Known: {known}")
        found = self._import(entry.target, entry, name)
        family, slash, member = name.partition("/")
        return found(member) if slash and f"{family}/" in self._entries and name not in self._entries else found

    def members(self, family: str) -> list[str]:
        """What a family (``dmc/``) answers for, sorted, without the family's own name; empty for a name that is none."""
        entry = self.entry(family)
        return sorted(self._import(entry.members, entry, family)()) if entry.members else []

    def _import(self, target: str, entry: Entry, name: str) -> Any:
        module_name, _, attribute = target.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if entry.extra is None or (error.name or "").split(".")[0] == module_name.split(".")[0]:
                raise
            needs = ", ".join(repr(need) for need in entry.needs) or repr(error.name)
            raise MissingExtraError(f"{self.kind} {name!r} needs {needs}: pip install 'lewm[{entry.extra}]'") from error
        return getattr(module, attribute)

    def add(self, name: str, entry: Entry) -> None:
        """Add an entry; a name that is taken is refused."""
        if name in self._entries:
            raise ConfigError(f"{self.kind} {name!r} is already registered as {self._entries[name].target}; choose another name")
        self._entries[name] = entry

    def adopt(self, name: str, entry: Entry) -> None:
        """Add what ``matched`` found in another process, unless it is here too."""
        self._read_entry_points()
        self._entries.setdefault(name, entry)

    def _key(self, name: str) -> str | None:
        if name in self._entries:
            return name
        family = name.split("/")[0] + "/"
        return family if "/" in name and family in self._entries else None

    def _read_entry_points(self) -> None:
        if self._has_read_entry_points:
            return
        self._has_read_entry_points = True
        for point in importlib.metadata.entry_points(group=f"lewm.{self.plural}"):
            self.add(point.name, Entry(target=point.value, summary=f"from the package {point.dist.name if point.dist else '?'}"))


ENVS = Table(
    "env",
    {
        "two-room": Entry(target="lewm.envs.two_room.env:TwoRoom", summary="a dot, two rooms and a door: the paper's navigation task"),
        "push-t": Entry(
            target="lewm.envs.push_t.env:PushT",
            summary="push a T-shaped block to where the goal has it, actions around the pusher: the paper's manipulation task",
            extra="push-t",
            needs=("pymunk",),
        ),
        "push-t-absolute": Entry(
            target="lewm.envs.push_t.env:PushTAbsolute",
            summary="Push-T with actions that are places on the table: the gym-pusht package, state for state",
            extra="push-t",
            needs=("pymunk",),
        ),
        "dmc/": Entry(
            target="lewm.envs.dmc.env:task_env",
            members="lewm.envs.dmc.env:task_names",
            summary="dmc/<domain>-<task>: every task of the DeepMind Control Suite, such as dmc/reacher-easy",
            extra="dmc",
            needs=("dm-control",),
        ),
        "atari/": Entry(
            target="lewm.envs.atari.env:game_env",
            members="lewm.envs.atari.env:game_names",
            summary="atari/<game>: every game of the Arcade Learning Environment, such as atari/pong",
            extra="atari",
            needs=("ale-py",),
        ),
        "stress/": Entry(
            target="lewm.envs.stressed:stressed_env",
            members="lewm.envs.stress:stress_names",
            summary="stress/<kind>/<env>: any world with a nuisance over its frames, such as stress/distractor/two-room",
        ),
        "ogbench/": Entry(
            target="lewm.envs.ogbench.env:member_env",
            members="lewm.envs.ogbench.env:member_names",
            summary="ogbench/<env>: OGBench's arm among objects and its mazes, such as ogbench/cube-single and ogbench/pointmaze-medium",
            extra="ogbench",
            needs=("ogbench",),
        ),
    },
)

POLICIES = Table(
    "policy",
    {
        "random": Entry(target="lewm.envs.policies:RandomPolicy", summary="a new uniform action at every env step: any world"),
        "block-random": Entry(target="lewm.envs.policies:BlockRandomPolicy", summary="a uniform action, held for some env steps: any world"),
        "ou": Entry(target="lewm.envs.policies:OUPolicy", summary="coloured noise, an Ornstein-Uhlenbeck process: worlds of continuous actions"),
        "search": Entry(target="lewm.envs.search:SearchPolicy", summary="search on the simulator itself, towards the world's own goals: a ceiling"),
        "run": Entry(target="lewm.evaluation.run_policy:RunPolicy", summary="a trained run that plans towards the world's own goals: --policy RUN"),
    },
    plural="policies",
)

PLANNERS = Table(
    "planner",
    {
        "cem": Entry(target="lewm.planning.sampling:CEM", summary="cross-entropy method: refit a Gaussian, or choices, on the best candidates"),
        "icem": Entry(target="lewm.planning.sampling:ICEM", summary="CEM with coloured noise, elites that are kept, and fewer and fewer candidates"),
        "mppi": Entry(target="lewm.planning.sampling:MPPI", summary="path integral: every candidate counts, by the exponential of its cost"),
        "predictive-sampling": Entry(target="lewm.planning.sampling:PredictiveSampling", summary="the best of noisy candidates around the last plan"),
        "gradient": Entry(target="lewm.planning.gradient:Gradient", summary="any optimiser of torch on the actions, from several starts"),
        "cem-gradient": Entry(target="lewm.planning.gradient:CEMGradient", summary="CEM, then the gradient from its plan"),
        "direct": Entry(target="lewm.planning.direct:Direct", summary="no search: what a head on the latents proposes (planner.proposals)"),
        "guarded": Entry(target="lewm.planning.guarded:Guarded", summary="a small cem around what a head proposes: INTACT"),
        "landmarks": Entry(
            target="lewm.planning.landmarks:Landmarks", summary="a route over a map of the training data, and a search from landmark to landmark"
        ),
    },
)

OBJECTIVES = Table(
    "objective",
    {
        "lewm": Entry(target="lewm.objectives.prediction:LeWMObjective", summary="next-latent prediction + weight * SIGReg: LeWorldModel"),
        "none": Entry(target="lewm.objectives.baselines:NoneObjective", summary="prediction alone: collapses"),
        "stopgrad": Entry(target="lewm.objectives.baselines:StopGradientObjective", summary="prediction of targets without a gradient: SimSiam"),
        "ema": Entry(target="lewm.objectives.baselines:EMAObjective", summary="prediction of a slowly following encoder's targets: BYOL, I-JEPA"),
        "vicreg": Entry(target="lewm.objectives.variance:VICRegObjective", summary="prediction + variance hinge + covariance penalty: VICReg"),
        "pldm": Entry(target="lewm.objectives.variance:PLDMObjective", summary="prediction and six more terms: PLDM"),
        "reconstruct": Entry(
            target="lewm.objectives.reconstruction:ReconstructionObjective", summary="prediction + decoding the frames: the generative way"
        ),
        "inverse": Entry(target="lewm.objectives.baselines:InverseObjective", summary="prediction + recovering the actions, no regulariser"),
        "contrastive": Entry(target="lewm.objectives.contrastive:ContrastiveObjective", summary="InfoNCE between predicted and true next latents"),
        "reward": Entry(target="lewm.objectives.reward:RewardObjective", summary="consistency + reward and value prediction: the TD-MPC way"),
        "frozen": Entry(target="lewm.objectives.baselines:FrozenObjective", summary="prediction in the latents of an untrained (random) encoder"),
        "sigreg-subspace": Entry(
            target="lewm.objectives.sigreg_variants:SubspaceObjective", summary="SIGReg in frozen orthogonal subspaces: Sub-JEPA"
        ),
        "sigreg-aniso": Entry(target="lewm.objectives.sigreg_variants:AnisotropicObjective", summary="SIGReg against learnt variances: AnisoWM"),
    },
)

ENCODERS = Table(
    "encoder",
    {
        "conv": Entry(target="lewm.models.encoders:ConvEncoder", summary="strided convolutions: fast on a CPU, good at 64 px"),
        "vit": Entry(target="lewm.models.encoders:ViTEncoder", summary="vision transformer of any size, patch and depth: the paper's"),
    },
)

HEADS = Table(
    "head",
    {
        "decoder": Entry(target="lewm.models.decoder:decoder_for", summary="draws the frame that a latent stands for; to be looked at"),
        "inverse-goal": Entry(target="lewm.models.inverse_goal:inverse_goal_for", summary="which action to take now for a goal some env steps ahead"),
        "intent": Entry(target="lewm.models.intent:intent_for", summary="a distribution over the next action block, given what is to change: INTACT"),
        "distance": Entry(target="lewm.models.temporal_distance:temporal_distance_for", summary="how many env steps lie between two latents"),
    },
)

LEARNERS = Table(
    "learned policy",
    {
        "gcbc": Entry(target="lewm.learned_policies.gcbc:GCBC", summary="goal-conditioned behaviour cloning: what was done on the way to the goal"),
        "gciql": Entry(target="lewm.learned_policies.gciql:GCIQL", summary="goal-conditioned implicit Q-learning: a value, and a policy of it"),
    },
    plural="learners",
)

FORMATS = Table(
    "format",
    {
        "native": Entry(target="lewm.data.formats.native:NativeFormat", summary="memory-mapped, sharded, checksummed .npy columns; written too"),
        "hdf5": Entry(
            target="lewm.data.formats.hdf5:Hdf5Format",
            summary="one HDF5 file of flat columns, as le-wm and stable-worldmodel write it; written too",
            extra="hdf5",
            needs=("h5py", "hdf5plugin"),
        ),
        "lance": Entry(
            target="lewm.data.formats.lance:LanceFormat",
            summary="a Lance table of frames, as stable-worldmodel writes it; written too",
            extra="lance",
            needs=("pylance", "pyarrow"),
        ),
        "lerobot": Entry(
            target="lewm.data.formats.lerobot:LeRobotFormat",
            summary="LeRobot v3: parquet and mp4, several cameras; written too",
            extra="lerobot",
            needs=("pyarrow", "av"),
        ),
        "minari": Entry(
            target="lewm.data.formats.minari:MinariFormat",
            summary="a Minari dataset with images among its observations; written too",
            extra="minari",
            needs=("h5py",),
        ),
        "robomimic": Entry(
            target="lewm.data.formats.robomimic:RobomimicFormat", summary="an HDF5 file of robomimic's demonstrations", extra="hdf5", needs=("h5py",)
        ),
        "ogbench": Entry(target="lewm.data.formats.ogbench:OgbenchFormat", summary="a visual dataset of OGBench, .npz"),
        "video": Entry(
            target="lewm.data.formats.video:VideoFormat",
            summary="a folder of videos, with actions in csv, parquet or npy beside them, or without",
            extra="video",
            needs=("av",),
        ),
        "images": Entry(
            target="lewm.data.formats.images:ImagesFormat", summary="a folder of image sequences, one folder an episode, actions beside them"
        ),
    },
)

EVALUATIONS = Table(
    "evaluation",
    {
        "success": Entry(target="lewm.evaluation.success:evaluate_success", summary="reach goals never trained on, with floors and intervals"),
        "collapse": Entry(target="lewm.evaluation.collapse:evaluate_collapse", summary="do the latents of held-out frames carry information?"),
        "probe": Entry(target="lewm.evaluation.probing:evaluate_probe", summary="read true quantities off frozen and imagined latents"),
        "surprise": Entry(
            target="lewm.evaluation.surprise:evaluate_surprise", summary="are steps that the world does not make surprising? violation of expectation"
        ),
        "robustness": Entry(
            target="lewm.evaluation.robustness:evaluate_robustness",
            summary="success and probes in perturbed worlds, from corrupted frames and in unseen layouts",
        ),
        "why": Entry(target="lewm.evaluation.why.workflow:explain", summary="which part makes plans fail, and does the agent know?"),
        "atari-labels": Entry(
            target="lewm.evaluation.atari_probing:evaluate_atari_labels", summary="AtariARI: name the game's memory bytes from frozen latents"
        ),
        "reconstruction": Entry(
            target="lewm.evaluation.reconstruction:evaluate_reconstruction",
            summary="draw frames from real and imagined latents, for runs with a decoder",
        ),
    },
)

TABLES = {
    "envs": ENVS,
    "policies": POLICIES,
    "planners": PLANNERS,
    "objectives": OBJECTIVES,
    "encoders": ENCODERS,
    "heads": HEADS,
    "learners": LEARNERS,
    "formats": FORMATS,
    "evaluations": EVALUATIONS,
}


def register(table: str, name: str, target: str, *, summary: str = "", extra: str | None = None) -> None:
    """Add your own environment, policy, planner, objective, encoder, format or evaluation for this process.

    ``table`` is one of ``lewm list``'s; ``target`` is ``module:attribute``. From a package, use an entry point instead.
    """
    if table not in TABLES:
        raise UnknownNameError(f"unknown table {table!r}.{did_you_mean(table, TABLES)}")
    TABLES[table].add(name, Entry(target=target, summary=summary, extra=extra))
