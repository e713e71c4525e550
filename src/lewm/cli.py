"""The command line: a table of verbs, one public function each, and what happens to their errors.

``lewm --help`` is printed from the table alone, so that it takes no time; a verb's own help comes from its arguments.
"""

import importlib
import sys
from collections.abc import Sequence

from lewm.errors import LewmError
from lewm.registry import did_you_mean

VERBS = {
    "demo": ("lewm.commands.demo", "collect, train, evaluate and report on the two-room world, in minutes"),
    "list": ("lewm.commands.show", "what there is: envs, policies, planners, objectives, encoders, formats, presets, collections, evaluations"),
    "collect": ("lewm.commands.collect", "record episodes of a world into a dataset"),
    "info": ("lewm.commands.show", "what a dataset, run or checkpoint holds; --verify checks every hash"),
    "convert": ("lewm.commands.convert", "write a dataset in another format; --to FORMAT, default: ours"),
    "train": ("lewm.commands.train", "train a world model from the pixels of a dataset"),
    "eval": ("lewm.commands.evaluate", "measure a run: success, probe, collapse"),
    "plan": ("lewm.commands.plan", "actions from one frame to another, and how near they are expected to come"),
    "verify": ("lewm.commands.evaluate", "replay a result file in the simulator and recompute every number in it"),
    "compare": ("lewm.commands.evaluate", "methods on the same pairs, or the training seeds of one with one interval"),
    "report": ("lewm.commands.demo", "one self-contained HTML page about a run"),
    "lab": ("lewm.commands.lab", "every objective on the same worlds, data, networks, steps and seeds: which of them collapse"),
    "planners": ("lewm.commands.planners", "every planner, head and floor on the same runs and pairs: success and what a decision costs"),
    "push": ("lewm.commands.hub", "upload a run, checkpoint or dataset to the Hugging Face hub"),
    "pull": ("lewm.commands.hub", "download and verify what push uploaded"),
    "bench": ("lewm.commands.bench", "measure speed against a plain reference in the same run"),
}
"""Verb -> (module with a function of the verb's name, one line of help)."""

EXIT_DONE, EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 done, 1 a ``LewmError``, 2 refused by the parser, 130 Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(help_text())
        return EXIT_DONE if words else EXIT_USAGE
    if words[0] == "--version":
        from lewm.versions import versions

        sys.stdout.write(f"lewm {versions()['lewm']}\n")
        return EXIT_DONE
    verb = words[0]
    if verb not in VERBS:
        sys.stderr.write(f"lewm: unknown verb {verb!r}.{did_you_mean(verb, VERBS)}\n")
        return EXIT_USAGE
    try:
        getattr(importlib.import_module(VERBS[verb][0]), verb.replace("eval", "evaluate"))(words[1:])
    except LewmError as error:
        sys.stderr.write(f"lewm {verb}: {error}\n")
        return EXIT_ERROR
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            sys.stderr.close()  # the reader has gone; nothing more can be said
            return EXIT_DONE
        place = f"{error.filename!r}: " if error.filename else ""
        sys.stderr.write(f"lewm {verb}: {place}{error.strerror or error}; check the path, its permissions and the space left\n")
        return EXIT_ERROR
    except KeyboardInterrupt:
        sys.stderr.write(f"\nlewm {verb}: interrupted; what was finished is kept\n")
        return EXIT_INTERRUPTED
    except SystemExit as stop:  # the parser's own refusal or help
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    return EXIT_DONE


def help_text() -> str:
    """The top-level help."""
    lines = [f"  {verb:<9}{summary}" for verb, (_, summary) in VERBS.items()]
    return "\n".join(
        [
            "usage: lewm VERB ...",
            "",
            "LeWorldModel that you can run, trust and ship: a world model trained end to end from pixels.",
            "",
            *lines,
            "",
            "`lewm VERB --help` explains a verb. Start with `lewm demo`.",
            "",
        ]
    )


def run() -> None:
    """The ``lewm`` script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
