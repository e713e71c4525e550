"""Imagination replayed as CUDA graphs: a GPU that imagines a small batch waits most of the time for the processor to tell it what to do next.

Axes: E episode, S candidate, H context, T model step, A action block, D latent.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.planning.costs import Rollout

MOST_GRAPHS = 16
"""Sizes that are kept: one for each number of episodes, of candidates and of context latents. They share memory, but each keeps its own result."""
NUM_WARMUPS = 2
"""Calls before one is recorded: in them libraries allocate what they keep, and a compiled rollout compiles."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A rollout of one size, ready to be replayed on what its inputs hold."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor

    def replay(self, arguments: tuple[Tensor, ...]) -> Tensor:
        """The result for these arguments, in memory of its own: that of the recording is overwritten by the next replay of any size."""
        for kept, argument in zip(self.inputs, arguments, strict=True):
            kept.copy_(argument)
        self.graph.replay()
        return self.output.clone()


class GraphedRollout:
    """A rollout that is recorded at the second call with arguments of a size, and replayed from then on; the first call of a size is an ordinary one.

    To record takes more than three calls, and many sizes come by once: an agent that drops the episodes that are over has another number of them at
    almost every plan, and a search may ask only once per plan what its result costs. A size whose recording made room for others begins anew.

    The same kernels run on the same numbers, so results are those of the rollout. Where gradients are on, it is called as it is. The weights may
    change in place, but not move: a model that is moved afterwards needs a new one.
    """

    def __init__(self, rollout: Rollout, *, most_graphs: int = MOST_GRAPHS) -> None:
        self._rollout, self._most_graphs = rollout, most_graphs
        self._recordings: dict[Any, Recording] = {}  # in the order of their last use
        self._seen: set[Any] = set()  # sizes that came by once, and have no recording
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # one for all: libraries allocate for each stream that they see

    def __call__(
        self, context: Float[Tensor, "E H D"], past_blocks: Float[Tensor, "E H-1 A"], candidates: Float[Tensor, "E S T A"]
    ) -> Float[Tensor, "E S T D"]:
        """See ``WorldModel.rollout``."""
        if torch.is_grad_enabled():
            return self._rollout(context, past_blocks, candidates)
        arguments = (context, past_blocks, candidates)
        key = (*((argument.shape, argument.dtype) for argument in arguments), torch.is_autocast_enabled("cuda"))
        if key not in self._recordings and key not in self._seen:
            self._seen.add(key)
            return self._rollout(*arguments)
        recording = self._recordings.pop(key, None) or self._record(arguments)
        self._seen.discard(key)
        self._recordings[key] = recording
        if len(self._recordings) > self._most_graphs:  # only after a recording, which waited for all replays before it
            del self._recordings[next(iter(self._recordings))]
        return recording.replay(arguments)

    def _record(self, arguments: tuple[Tensor, ...]) -> Recording:
        with torch.inference_mode(False):  # inputs that were made in inference mode could not be written to outside it
            inputs = tuple(argument.detach().clone() for argument in arguments)
        context, past_blocks, candidates = inputs
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(NUM_WARMUPS):
                self._rollout(context, past_blocks, candidates)
        torch.cuda.current_stream().wait_stream(self._stream)
        # Weights that autocast has rounded already would be read from memory that is free again when the graph is replayed, and those that it
        # rounds while recording belong to the graph.
        torch.clear_autocast_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            output = self._rollout(context, past_blocks, candidates)
        torch.clear_autocast_cache()
        return Recording(graph=graph, inputs=inputs, output=output)
