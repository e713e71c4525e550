"""``lewm demo``: the whole of LeWorldModel on the two-room world, in minutes on a laptop.

Collect, train, train a control without SIGReg, evaluate both, write the report. Each stage is a public function that has a verb of its own; an
interrupted demo goes on at the stage, and within it at the place, where it stopped.
"""

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lewm.config import Config
from lewm.config_files import from_dict, load_preset, to_dict
from lewm.errors import ConfigError
from lewm.report.evidence import CONTROL, DEMO_FILE
from lewm.run_directory import write_json
from lewm.versions import hardware

if TYPE_CHECKING:  # importing it would import torch before there is anything to say
    from lewm.training import Progress

FORMAT = 1
ENV = "two-room"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How much of everything a demo does; the defaults take minutes on two CPU cores."""

    preset: str = "laptop"
    num_episodes: int = 1000
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings that differ from the preset's, by section."""
    control_share: float = 1 / 8
    """Length of the control run, as a share of the main one."""
    num_pairs: int = 50
    """Start/goal pairs per stratum at the first distance."""
    num_far_pairs: int = 25
    """The same at the second distance."""
    num_control_pairs: int = 12
    """The same for the control run, at the first distance only."""
    distances: tuple[int, int] = (25, 50)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of the demo: what it is called in the report, what a learner is told, and what it does."""

    name: str
    words: str
    work: Callable[[], None]


class Demo:
    """The stages of one demo and what it has written down about them so far."""

    def __init__(self, out: Path, seed: int, size: DemoSize, say: Say, training_progress: "Callable[[], Progress] | None") -> None:
        self.out, self.data, self.control = out, out / "data", out / CONTROL
        self.seed, self.size, self.say, self.training_progress = seed, size, say, training_progress
        self.record: dict[str, Any] = _open_record(out, seed, size)

    @property
    def config(self) -> Config:
        """Settings of the main run."""
        config = from_dict(self.size.changes, load_preset(self.size.preset))
        return replace(config, train=replace(config.train, seed=self.seed))

    @property
    def control_config(self) -> Config:
        """The main run's settings without SIGReg: fewer steps of the same schedule, and a monitor that looks more often."""
        config = self.config
        num_steps = max(2, round(config.train.num_steps * self.size.control_share))
        train = replace(
            config.train,
            num_steps=num_steps,
            schedule_num_steps=config.train.schedule_num_steps or config.train.num_steps,
            monitor_every_steps=max(1, num_steps // 14),
        )
        return replace(config, objective=replace(config.objective, weight=0.0), train=train)

    def stages(self) -> tuple[Stage, ...]:
        """What is done, in order."""
        size, steps = self.size, self.config.train.num_steps
        return (
            Stage(
                name="collecting",
                words=f"Collecting {size.num_episodes:,} episodes: a scripted agent wanders through two rooms; only its frames and actions count.",
                work=self._collect,
            ),
            Stage(
                name="training",
                words=f"Training a world model for {steps:,} steps: it learns to predict the next latent. This is the long part.",
                work=lambda: self._train(self.config, self.out),
            ),
            Stage(
                name="training the control",
                words="Training a control without SIGReg. It should collapse, and an alarm should say so: that is the point.",
                work=lambda: self._train(self.control_config, self.control),
            ),
            Stage(
                name="evaluating",
                words="Evaluating: the model plans its way to goals that it never trained on; blind policies and the control get the same ones.",
                work=self._evaluate,
            ),
            Stage(
                name="probing",
                words="Probing: can the true position be read off the latents?",
                work=lambda: self._latents("probe"),
            ),
        )

    def run(self) -> Path:
        """Do what is not done yet; returns the report's page."""
        stages = self.stages()
        for number, stage in enumerate(stages, start=1):
            heading = f"[{number}/{len(stages) + 1}]"
            if stage.name in self.record["seconds"]:
                self.say(f"{heading} {stage.name}: done before, in {self.record['seconds'][stage.name]:,.0f} s")
                continue
            self.say(f"{heading} {stage.words}")
            start_s = time.monotonic()
            stage.work()
            seconds = time.monotonic() - start_s
            self.say(f"      done in {seconds:,.0f} s")
            self._remember({"seconds": self.record["seconds"] | {stage.name: round(seconds, 1)}})
        from lewm.report import write_report

        self.say(f"[{len(stages) + 1}/{len(stages) + 1}] Writing the report and its films.")
        page = write_report(self.out)
        self._remember({"is_finished": True})
        return page

    def _remember(self, values: dict[str, Any]) -> None:
        self.record |= values
        write_json(self.out / DEMO_FILE, self.record)

    def _command(self, *words: str) -> str:
        """The command that does the same by itself, noted for the report."""
        command = shlex.join(["lewm", *words])
        if command not in self.record["commands"]:
            self._remember({"commands": [*self.record["commands"], command]})
        return command

    def _collect(self) -> None:
        from lewm.data.collect import collect

        count = self.size.num_episodes
        words = ("collect", ENV, "--out", str(self.data), "--episodes", str(count), "--seed", str(self.seed))
        collect(ENV, self.data, episodes=count, seed=self.seed, resume=self.data.exists(), command=self._command(*words))

    def _train(self, config: Config, out: Path) -> None:
        from lewm.training import train

        words = ("train", "--data", str(self.data), "--out", str(out), "--preset", self.size.preset, *_flags(config, load_preset(self.size.preset)))
        is_started = (out / "config.toml").exists()
        train(config, data=self.data, out=out, resume=is_started, command=self._command(*words), progress=self.training_progress)

    def _evaluate(self) -> None:
        near, far = self.size.distances
        self._success(self.out, near, self.size.num_pairs)
        self._success(self.out, far, self.size.num_far_pairs)
        self._success(self.control, near, self.size.num_control_pairs)

    def _success(self, run: Path, distance: int, num_pairs: int) -> None:
        from lewm.evaluation.success import success_table
        from lewm.evaluation.workflow import evaluate

        path = run / "results" / f"success-{distance}.json"
        if path.exists():
            return
        words = [
            "eval",
            "success",
            str(run),
            "--distances",
            str(distance),
            "--episodes",
            str(num_pairs),
            "--seed",
            str(self.seed),
            "--json",
            str(path),
        ]
        result = evaluate(
            run,
            distances=(distance,),
            episodes=num_pairs,
            seed=self.seed,
            command=self._command(*words),
            progress=lambda text: self.say(f"      {text}"),
        )
        write_json(path, result)
        self.say(f"{'control' if run == self.control else 'model'}:\n{success_table(result)}")

    def _latents(self, name: str) -> None:
        from lewm.evaluation.workflow import evaluate_latents

        path = self.out / "results" / f"{name}.json"
        command = self._command("eval", name, str(self.out), "--data", str(self.data), "--json", str(path))
        write_json(path, evaluate_latents(name, self.out, self.data, command=command))


def run_demo(
    out: Path = Path("runs/demo"),
    *,
    seed: int = 0,
    say: Say,
    size: DemoSize | None = None,
    training_progress: "Callable[[], Progress] | None" = None,
) -> Path:
    """Run the demo in ``out``, which becomes a run, and return its ``report.html``.

    ``say`` is told what happens. A demo that was interrupted is continued; one that is finished is left as it is. ``ConfigError`` if ``out`` holds
    something else, or a demo with another seed or size.
    """
    demo = Demo(out, seed, size or DemoSize(), say, training_progress)
    page = out / "report.html"
    if demo.record.get("is_finished") and page.exists():
        say(f"this demo is finished: open {page}; `lewm report {shlex.quote(str(out))}` writes its page anew, and another --out starts a new one")
        return page
    return demo.run()


def _open_record(out: Path, seed: int, size: DemoSize) -> dict[str, Any]:
    """What a demo in ``out`` wrote down so far."""
    identity = {"format": FORMAT, "seed": seed} | json.loads(json.dumps(asdict(size)))
    path = out / DEMO_FILE
    if path.exists():
        record = _read_record(path)
        for name, value in identity.items():
            if record.get(name) != value:
                raise ConfigError(
                    f"{str(out)!r} holds a demo with {name} {record.get(name)!r}, not {value!r}; continue it as it was or choose another --out"
                )
        return record
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r} already exists and holds no demo; choose another --out")
    fresh: dict[str, Any] = identity | {"seconds": {}, "commands": [], "hardware": hardware(), "is_finished": False}
    write_json(path, fresh)
    return fresh


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read ({error}); choose another --out, or remove it with its directory") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ConfigError(f"{str(path)!r} is no record of a demo in format {FORMAT}; choose another --out")
    return record


def _flags(config: Config, preset: Config) -> list[str]:
    """Flags of ``lewm train`` that turn the preset into ``config``."""
    flags = []
    base = to_dict(preset)
    for section, values in to_dict(config).items():
        for key, value in values.items():
            if base[section].get(key) != value:
                flags += [f"--{section}.{key.replace('_', '-')}", str(value)]
    return flags
