"""How the GPUs of one pipeline stage share a layer: attention one way, routed experts another.

Plain tensor parallelism divides everything by one degree. Mixture-of-experts engines divide attention by ``tp`` and
give each of ``attention_dp`` ranks sequences of its own, with a whole KV cache for them; the routed experts lie over
all of these GPUs, each expert on ``moe_tp`` of them and ``moe_ep`` groups side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.errors import InputError

if TYPE_CHECKING:
    from planner.model import Gemm, ModelSpec

__all__ = ["ReplicaParallelism"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaParallelism:
    """Degrees of parallelism inside a stage; ``tp * attention_dp == moe_tp * moe_ep`` GPUs.

    Parameters
    ----------
    tp
        GPUs that share the attention of one sequence, and all that is not a routed expert.
    attention_dp
        Ranks that each hold sequences of their own.
    moe_tp
        GPUs that share one routed expert; 0 means all that `moe_ep` leaves.
    moe_ep
        Groups of GPUs that hold different experts.

    Examples
    --------
    >>> ReplicaParallelism(tp=1, attention_dp=8, moe_ep=8)
    ReplicaParallelism(tp=1, attention_dp=8, moe_tp=1, moe_ep=8)
    >>> ReplicaParallelism(tp=4).moe_tp
    4
    """

    tp: int = 1
    attention_dp: int = 1
    moe_tp: int = 0
    moe_ep: int = 1

    def __post_init__(self) -> None:
        """Fill `moe_tp` in, and check that both ways of sharing take the same GPUs."""
        for name in ("tp", "attention_dp", "moe_ep"):
            if getattr(self, name) < 1:
                raise InputError(f"is {getattr(self, name)}", field=name, expected="a whole number >= 1")
        if self.moe_tp == 0 and self.gpus % self.moe_ep == 0:
            object.__setattr__(self, "moe_tp", self.gpus // self.moe_ep)
        if self.moe_tp * self.moe_ep != self.gpus:
            raise InputError(
                f"attention takes TP {self.tp} x DP {self.attention_dp} = {self.gpus} GPUs, the experts "
                f"TP {self.moe_tp} x EP {self.moe_ep} = {self.moe_tp * self.moe_ep}",
                expected="the same GPUs for both",
            )

    @property
    def gpus(self) -> int:
        """GPUs of the stage."""
        return self.tp * self.attention_dp

    @property
    def plain(self) -> bool:
        """Whether it is tensor parallelism and nothing else."""
        return self.attention_dp == 1 and self.moe_ep == 1

    def share_of(self, gemm: Gemm) -> int:
        """GPUs that a weight matrix is divided over; the others hold the same again, or other experts."""
        if gemm.experts > 1:
            return self.gpus
        return 1 if gemm.split == "replicated" else self.tp

    def fault(self, model: ModelSpec) -> str | None:
        """Why these degrees do not divide a model's experts, or None; attention is checked by its own `tp`.

        Examples
        --------
        >>> from planner.model import load_model
        >>> ReplicaParallelism(tp=3, moe_ep=3).fault(load_model("mixtral-8x7b"))
        'EP 3 does not divide the 8 experts'
        """
        for kind in model.kinds:
            if kind.experts % self.moe_ep:
                return f"EP {self.moe_ep} does not divide the {kind.experts} experts"
            for gemm in kind.gemms:
                width = gemm.n if gemm.split == "column" else gemm.k
                if gemm.experts > 1 and gemm.split != "replicated" and width % self.moe_tp:
                    return f"TP {self.moe_tp} does not divide {gemm.name} of width {width}"
        if self.moe_ep > 1 and not any(kind.experts for kind in model.kinds):
            return f"EP {self.moe_ep}, but the model has no experts"
        return None
