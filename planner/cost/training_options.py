"""What a training run does beyond what a plan says of it: formats and overlaps that engines offer.

The searches plan none of these: their plans run with the defaults. Published runs use them, and `predict_training`
prices them, so that a prediction is compared with the run that was measured and not with a plainer one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from planner.dtypes import Dtype

__all__ = ["PLAIN", "MatrixFormat", "RunOptions"]

MatrixFormat = Literal["16bit", "fp8", "mxfp8", "nvfp4"]

_STORED: Final[dict[MatrixFormat, Dtype]] = {"fp8": "fp8", "mxfp8": "fp8", "nvfp4": "nvfp4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run goes about it.

    Parameters
    ----------
    matrix_format
        What the layers' matrices are multiplied in; the head stays in 16 bit, and so do weights in memory.
    overlap
        Whether collectives run beside kernels: tensor parallel ones in pieces of their matrix product, gradients
        behind the backward pass, hops behind another chunk's work where the schedule is interleaved.
    frozen_weights
        Whether the layers' own weights are not trained (LoRA): they have no gradient and no optimizer state.
    gradient_bytes
        Bytes of a gradient as it is held. What is sent is priced as in fp32 whatever it is: so were the constants
        fitted.
    flash_attention
        Whether attention is fused; None: where the GPU has it.
    stragglers
        Whether waiting for the slowest of all GPUs counts, more of it the more there are. Searches leave it out: it is
        nearly the same for all plans on a cluster.
    """

    matrix_format: MatrixFormat = "16bit"
    overlap: bool = False
    frozen_weights: bool = False
    gradient_bytes: float = 4.0
    flash_attention: bool | None = None
    stragglers: bool = False

    @property
    def stored(self) -> Dtype | None:
        """Format that matrices are multiplied in; None for 16 bit."""
        return _STORED.get(self.matrix_format)


PLAIN: Final = RunOptions()
