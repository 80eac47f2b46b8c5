"""GPU types: what the data sheet says, what was measured, what it costs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from planner.cluster.efficiency import AllReduce, Efficiency, load_efficiency
from planner.cluster.loading import find_file, not_as_expected, read_yaml, slug, validated
from planner.cluster.quantity import Curve, DateText, Kind, Quantity, inherit_provenance, quantity_in
from planner.dtypes import Dtype
from planner.errors import InputError
from planner.resources import resource_dir

__all__ = [
    "AllReduce",
    "Curve",
    "DeviceProfile",
    "Efficiency",
    "Quantity",
    "list_devices",
    "load_device",
]


class DeviceProfile(BaseModel):
    """One GPU type.

    Parameters
    ----------
    name
        Its file's name: ``"a100_sxm_80"``.
    title
        As the vendor calls it.
    aliases
        Other spellings, among them what ``nvidia-smi`` and Kubernetes labels print.
    kind, source, date
        Provenance of the numbers below, unless they bring their own.
    vendor, compute_capability, released
        Facts about it; a device that somebody measured may not have the last two.
    memory
        Bytes that the driver shows, which with ECC is less than the nominal size.
    memory_bandwidth
        Peak bytes/s.
    flops
        Peak dense FLOP/s by format: no sparsity, accumulation in fp32 where the hardware has a choice.
        A format that is missing has no units of its own on this GPU.
    link, link_domain
        Name of the link between GPUs of one node, where a cluster says nothing else, and how many GPUs such a link
        joins at most: 72 in one rack of GB200.
    pcie
        Name of its host link.
    power
        Watts at full load.
    price_per_hour
        USD per GPU and hour, public on-demand price; the source names cloud, instance and region.
    efficiency
        How much of all that it delivers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    kind: Kind
    source: str = Field(min_length=1)
    date: DateText
    note: str = ""
    vendor: str
    compute_capability: str | None = None
    released: DateText | None = None
    memory: Annotated[Quantity, quantity_in("bytes")]
    memory_bandwidth: Annotated[Quantity, quantity_in("bandwidth")]
    flops: dict[Dtype, Annotated[Quantity, quantity_in("flops")]] = Field(min_length=1)
    link: str
    link_domain: int = Field(default=8, ge=1)
    pcie: str | None = None
    power: Quantity | None = None
    price_per_hour: Quantity | None = None
    efficiency: Efficiency

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: object) -> object:
        # A price is never in the data sheet: it always brings a source of its own.
        return inherit_provenance(data, ("memory", "memory_bandwidth", "flops.*", "power"))

    @field_validator("power", "price_per_hour")
    @classmethod
    def _positive(cls, quantity: Quantity | None) -> Quantity | None:
        if quantity is not None and quantity.value <= 0:
            raise not_as_expected(f"{quantity.value:g} is not positive", expected="a positive number")
        return quantity


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Path]:
    folder = resource_dir("profiles") / "devices"
    return {path.stem: path for path in sorted(folder.glob("*.yaml")) if not path.stem.startswith("_")}


@lru_cache(maxsize=1)
def _by_alias() -> dict[str, str]:
    """Every spelling of every shipped device, normalised, and the device's name."""
    table: dict[str, str] = {}
    for name, path in _shipped().items():
        data, _ = read_yaml(path, "device profile")
        for alias in (name, str(data.get("title", name)), *data.get("aliases", ())):
            table.setdefault(slug(alias), name)
    return table


def list_devices() -> tuple[str, ...]:
    """Names of the GPU types that ship, sorted.

    Examples
    --------
    >>> "h100_sxm" in list_devices()
    True
    """
    return tuple(_shipped())


def load_device(name_or_path: str | Path) -> DeviceProfile:
    """Load a GPU type that ships, or one's own profile.

    Parameters
    ----------
    name_or_path
        A name (``"a100_sxm_80"``), another spelling of it (``"NVIDIA A100-SXM4-80GB"``), or a path.

    Returns
    -------
    DeviceProfile
        With a GEMM efficiency curve for each format that the device has FLOP/s for.

    Raises
    ------
    InputError
        If there is no such GPU (the message names the closest), or the file is wrong.

    Examples
    --------
    >>> load_device("NVIDIA H100 80GB HBM3").name
    'h100_sxm'
    """
    if isinstance(name_or_path, str):
        name = name_or_path if name_or_path in _shipped() else _by_alias().get(slug(name_or_path))
        if name is not None:
            return _load_shipped(name)
    return _load(find_file(name_or_path, _shipped(), "GPU"))


@lru_cache(maxsize=256)
def _load_shipped(name: str) -> DeviceProfile:
    return _load(_shipped()[name])


def _load(path: Path) -> DeviceProfile:
    data, _ = read_yaml(path, "device profile")
    data["efficiency"] = _efficiency(data.get("efficiency"), path)
    device = validated(DeviceProfile, data, path)
    return device.model_copy(update={"efficiency": device.efficiency.covering(tuple(device.flops))})


class _Loan(BaseModel):
    """Efficiencies of a related GPU, used for this one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    like: str
    error: float = Field(ge=0)
    error_basis: str = Field(min_length=1)
    all_reduce: bool = False


def _default_path() -> Path:
    return resource_dir("profiles") / "devices" / "_default_efficiency.yaml"


def _efficiency(raw: Any, path: Path) -> Any:
    """Resolve the ways to state efficiencies: not at all, a file, those of a relative, or written out."""
    if raw is None:
        return load_efficiency(_default_path())
    if isinstance(raw, str):
        return load_efficiency(path.parent / raw)
    if isinstance(raw, dict) and "like" in raw:
        loan = validated(_Loan, raw, f"{path}: efficiency")
        if loan.like == "default":
            default = load_efficiency(_default_path())
            return default.lent_to("the default", loan.error, loan.error_basis, all_reduce=False)
        lender = _by_alias().get(slug(loan.like), loan.like)
        if lender not in _shipped():
            raise InputError(
                f"unknown GPU {loan.like!r}",
                where=path,
                field="efficiency.like",
                expected="a GPU that ships with efficiencies of its own",
            )
        lender_path = _shipped()[lender]
        theirs = read_yaml(lender_path, "device profile")[0].get("efficiency")
        if theirs is None or (isinstance(theirs, dict) and "like" in theirs):
            raise InputError(
                f"{lender} has no efficiencies of its own to lend",
                where=path,
                field="efficiency.like",
                expected="a GPU with measured efficiencies",
                hint="leave `efficiency` out to get the defaults",
            )
        own = load_device(lender).efficiency
        return own.lent_to(lender, loan.error, loan.error_basis, all_reduce=loan.all_reduce)
    return raw
