"""How much of its data sheet a GPU delivers, operator by operator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from planner.cluster.loading import read_yaml, validated
from planner.cluster.quantity import Curve, DateText, Kind, Quantity, inherit_provenance, quantity_in
from planner.dtypes import Dtype

__all__ = ["AllReduce", "Efficiency", "load_efficiency"]

_GEMM_STAND_INS: dict[Dtype, tuple[Dtype, ...]] = {
    "bf16": ("fp16",),
    "fp16": ("bf16",),
    "fp32": ("bf16", "fp16"),
    "fp8": ("int8", "bf16", "fp16"),
    "int8": ("fp8", "bf16", "fp16"),
    "nvfp4": ("fp8", "bf16"),
    "mxfp4": ("nvfp4", "fp8", "bf16"),
    "int4": ("int8", "fp8", "bf16", "fp16"),
}
_SAME_UNITS = ({"bf16", "fp16"},)  # formats that run on the same units at the same rate
_STAND_IN_ERROR = 0.3  # relative error of a curve borrowed from another format, if its own is smaller


class AllReduce(BaseModel):
    """All-reduce among n GPUs of one node: ``time = latency + 2 (n-1)/n * bytes / bandwidth``.

    Parameters
    ----------
    latency
        Seconds of a vanishing message.
    bandwidth
        Bus bandwidth in bytes/s as nccl-tests defines it: what a GPU's link carries, the same for every n.
    seconds
        The measured points themselves: x message bytes, y seconds. Between 0.1 and 10 MB, where
        decoding lives, latency and bandwidth alone are too optimistic.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency: Annotated[Quantity, quantity_in("time")]
    bandwidth: Annotated[Quantity, quantity_in("bandwidth")]
    seconds: Curve | None = None


class Efficiency(BaseModel):
    """What one GPU type reaches of its data sheet.

    Parameters
    ----------
    kind, source, date
        Provenance of the whole; every number may bring its own.
    gemm
        For each format: x tokens m, y roofline time over measured time of a matrix product (m, k) x (k, n),
        where the roofline is max(2 m n k / FLOP/s, bytes / memory bandwidth).
    gemm_floor
        Seconds that a matrix product takes beside that: the start of the kernel.
    prefill_attention
        x tokens of the prompt, y share of the peak FLOP/s, counting causal FLOPs only (half the square).
    decode_attention
        x bytes of KV cache read, y share of the memory bandwidth, at most 1.
    decode_attention_floor
        Seconds that decode attention takes at least.
    elementwise
        Share of the memory bandwidth that norms, activations and residual additions reach.
    all_reduce
        By number of GPUs in one node; empty where nothing was measured, the link is used then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    source: str
    date: DateText
    note: str = ""
    gemm: dict[Dtype, Curve] = Field(min_length=1)
    gemm_floor: Annotated[Quantity, quantity_in("time")]
    prefill_attention: Curve
    decode_attention: Curve
    decode_attention_floor: Annotated[Quantity, quantity_in("time")]
    elementwise: Quantity
    all_reduce: dict[int, AllReduce] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: object) -> object:
        fields = (
            "gemm.*",
            "gemm_floor",
            "prefill_attention",
            "decode_attention",
            "decode_attention_floor",
            "elementwise",
        )
        filled = inherit_provenance(data, fields)
        if isinstance(filled, dict) and isinstance(filled.get("all_reduce"), dict):
            top = {key: filled[key] for key in ("kind", "source", "date") if key in filled}
            entries = filled["all_reduce"].items()
            filled["all_reduce"] = {number: _all_reduce_with(top, entry) for number, entry in entries}
        return filled

    @field_validator("gemm")
    @classmethod
    def _gemm_at_most_one(cls, curves: dict[Dtype, Curve]) -> dict[Dtype, Curve]:
        for dtype, curve in curves.items():
            _at_most_one(curve, f"gemm {dtype}")
        return curves

    @field_validator("prefill_attention", "decode_attention")
    @classmethod
    def _curve_at_most_one(cls, curve: Curve) -> Curve:
        return _at_most_one(curve, "attention")

    @field_validator("gemm_floor", "decode_attention_floor", "elementwise")
    @classmethod
    def _positive(cls, quantity: Quantity) -> Quantity:
        if not 0 < quantity.value <= 1:
            raise ValueError(f"{quantity.value:g} is outside (0, 1]")
        return quantity

    @field_validator("all_reduce")
    @classmethod
    def _at_least_two_gpus(cls, entries: dict[int, AllReduce]) -> dict[int, AllReduce]:
        for number in entries:
            if number < 2:
                raise ValueError(f"an all-reduce among {number} GPUs; expected 2 or more")
        return entries

    def covering(self, dtypes: tuple[Dtype, ...]) -> Efficiency:
        """Return the same with a GEMM curve for each of the formats, borrowed where there is none.

        A borrowed curve says so in its source, is ``estimated``, and has a relative error of at least 0.3,
        unless the two formats run on the same units (bf16 and fp16), where it keeps all as it is.
        """
        gemm = dict(self.gemm)
        for dtype in dtypes:
            if dtype in gemm:
                continue
            lender = next((known for known in _GEMM_STAND_INS[dtype] if known in self.gemm), next(iter(self.gemm)))
            curve = self.gemm[lender]
            if {dtype, lender} in _SAME_UNITS:
                gemm[dtype] = curve
                continue
            gemm[dtype] = curve.model_copy(
                update={
                    "kind": "estimated",
                    "source": f"{lender} curve used for {dtype}; {curve.source}",
                    "error": max(curve.error, _STAND_IN_ERROR),
                    "error_basis": f"assumed, as {dtype} was not measured; {curve.error_basis}",
                }
            )
        return self.model_copy(update={"gemm": gemm})

    def lent_to(self, lender: str, error: float, basis: str, *, all_reduce: bool) -> Efficiency:
        """Return the same as an estimate for a related GPU.

        Parameters
        ----------
        lender
            Name of the device these numbers belong to.
        error
            Relative error of the loan; the larger of it and the numbers' own counts.
        basis
            Why that error.
        all_reduce
            Whether the all-reduce figures go with it: only where the links between the GPUs are the same.
        """
        note = f"taken from {lender}"

        def curve(own: Curve) -> Curve:
            update = {"error": max(error, own.error), "error_basis": f"{basis}; {own.error_basis}"}
            return own.model_copy(update=update | {"kind": "estimated", "source": f"{note}: {own.source}"})

        def quantity(own: Quantity) -> Quantity:
            update = {
                "error": max(error, own.error or 0.0),
                "kind": "estimated",
                "source": f"{note}: {own.source}",
            }
            return own.model_copy(update=update)

        reduce = {
            number: AllReduce(
                latency=quantity(entry.latency),
                bandwidth=quantity(entry.bandwidth),
                seconds=None if entry.seconds is None else curve(entry.seconds),
            )
            for number, entry in self.all_reduce.items()
        }
        return self.model_copy(
            update={
                "kind": "estimated",
                "source": f"{note}: {self.source}",
                "gemm": {dtype: curve(own) for dtype, own in self.gemm.items()},
                "gemm_floor": quantity(self.gemm_floor),
                "prefill_attention": curve(self.prefill_attention),
                "decode_attention": curve(self.decode_attention),
                "decode_attention_floor": quantity(self.decode_attention_floor),
                "elementwise": quantity(self.elementwise),
                "all_reduce": reduce if all_reduce else {},
            }
        )


def load_efficiency(path: Path) -> Efficiency:
    """Read the efficiencies of one GPU type from a file of their own.

    Raises
    ------
    InputError
        If the file is missing or wrong; names the field.
    """
    data, _ = read_yaml(path, "efficiency")
    return validated(Efficiency, data, path)


def _at_most_one(curve: Curve, what: str) -> Curve:
    if max(curve.y) > 1:
        raise ValueError(f"{what} reaches {max(curve.y):g} of the peak; a share is at most 1")
    return curve


def _all_reduce_with(top: dict[str, Any], entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    parts = tuple(entry)
    filled: Any = inherit_provenance(top | entry, parts)
    return {part: filled[part] for part in parts}
