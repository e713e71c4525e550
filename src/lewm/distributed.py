"""What several processes need beside Fabric: sums and batch statistics over all of them that autograd sees.

Axes: B batch, D feature.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes; its gradient is summed over them too.

    Every process computes the same global loss from it, so its gradients come out multiplied by the number of processes, and averaging them over
    processes (as DistributedDataParallel does) gives exactly the single-process gradient.
    """
    reduced: Tensor = _AllReduceSum.apply(values)  # type: ignore[no-untyped-call]
    return reduced


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        summed = gradient.clone()
        dist.all_reduce(summed)
        return summed


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d whose training statistics are those of the global batch (any device, unlike torch's SyncBatchNorm, which needs a GPU)."""

    reduce: Callable[[Tensor], Tensor] = staticmethod(all_reduce_sum)

    def forward(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Normalise with statistics over the rows of all processes."""
        if not self.training:
            return super().forward(features)
        exact = features.float()
        rows = torch.full((1, exact.shape[1]), float(exact.shape[0]), device=exact.device)
        total, count = type(self).reduce(torch.cat([exact.sum(0, keepdim=True), rows])).unbind(0)
        mean = total / count
        variance = type(self).reduce((exact - mean).square().sum(0)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            momentum = 0.1 if self.momentum is None else self.momentum
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * count / (count - 1), momentum)
        normal = (exact - mean) * torch.rsqrt(variance + self.eps)
        return (normal * self.weight + self.bias).to(features.dtype)


def synchronise_batch_norm(module: nn.Module) -> None:
    """Make every BatchNorm1d inside ``module`` use the statistics of the global batch, in place: parameters and buffers stay the same."""
    for child in module.modules():
        if type(child) is nn.BatchNorm1d:
            child.__class__ = GlobalBatchNorm1d
