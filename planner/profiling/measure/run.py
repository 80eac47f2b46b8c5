"""One run: every point that is not yet in the journal, then tables and the device profile."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from planner.errors import InputError, PlannerError
from planner.profiling.measure.backend import Backend, open_backend
from planner.profiling.measure.families import FAMILIES, chosen
from planner.profiling.measure.journal import Entry, Journal
from planner.profiling.measure.plausible import doubts
from planner.profiling.measure.points import Point, UnmeasurableError
from planner.profiling.measure.profile import profile_data, what_is_lacking, write_profile
from planner.profiling.measure.results import tables_of, write_tables
from planner.profiling.measure.setup import Setup
from planner.profiling.measure.shapes import shapes_of
from planner.profiling.measure.timing import TimeBudget

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.profiling.measure.backend import DeviceFacts

__all__ = ["JOURNAL", "Measured", "Options", "Progress", "measure"]

JOURNAL: Final = "journal.jsonl"
_QUICK: Final = TimeBudget(seconds=0.05, least=3, most=20, reading=100e-6)
_FULL: Final = TimeBudget()

Progress = Callable[[int, int, str], None]
"""Called with points done, points in all, and what is measured next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked for.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    quick
        A few small sizes and short times.
    model
        Whose sizes to measure; None takes those of common models.
    only
        Families to measure; none means all.
    gpus
        Largest group whose collectives are measured; None takes all GPUs of this machine, or two processes.
    time_limit
        Seconds after which no further point is begun.
    output
        Folder; None is ``measured/<device>``.
    restart
        Forget what has been measured before.
    """

    device: str = "cpu"
    quick: bool = False
    model: str | None = None
    only: Sequence[str] = ()
    gpus: int | None = None
    time_limit: float | None = None
    output: Path | None = None
    restart: bool = False


@dataclass(slots=True, kw_only=True)
class Measured:
    """What came of a run.

    Parameters
    ----------
    facts
        The device.
    folder
        Where everything lies.
    total, before, now
        Points in all, those an earlier run had measured, those of this one.
    left
        Points that are still to be measured.
    interrupted
        Whether Ctrl-C ended the run.
    tables
        CSV files and their numbers of rows.
    profile
        The device profile and its file; None with the reason in `why_no_profile`.
    not_measurable
        What this device could not run, and why.
    left_out
        What is not measured of the named model.
    warnings
        What does not look right.
    seconds
        How long it took.
    """

    facts: DeviceFacts
    folder: Path
    total: int
    before: int
    now: int = 0
    left: int = 0
    interrupted: bool = False
    tables: dict[Path, int] = field(default_factory=dict)
    profile: DeviceProfile | None = None
    profile_path: Path | None = None
    why_no_profile: str = ""
    not_measurable: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0


def measure(
    options: Options,
    *,
    progress: Progress | None = None,
    backend: Backend | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Measured:
    """Measure a device.

    Every finished point is on disk before the next one begins: after an interruption the same call goes on where it
    was, and measures nothing twice.

    Parameters
    ----------
    options
        What to measure, and where to write it.
    progress
        Told before each point and at the end.
    backend
        The device; None opens the one that the options name.
    clock
        Seconds, for the time limit.

    Raises
    ------
    InputError
        If torch or the device is missing, a name is unknown, or the folder holds measurements of another device.
    """
    start = clock()
    names = chosen(options.only)
    shapes = shapes_of(options.model, quick=options.quick)
    if options.output is not None and options.output.exists() and not options.output.is_dir():
        raise InputError("is a file", where=options.output, expected="a folder to write to")
    device = backend or open_backend(options.device, quick=options.quick)
    facts = device.facts
    folder = options.output or Path("measured") / facts.name
    setup = Setup(
        backend=device,
        shapes=shapes,
        quick=options.quick,
        group_sizes=_group_sizes(device, options),
        budget=_QUICK if options.quick else _FULL,
    )
    common = {"device": facts.title, "software": facts.software, "sizes": "quick" if options.quick else "full"}
    journal = Journal(folder / JOURNAL, common, restart=options.restart)
    points = list({point.key: point for name in names for point in FAMILIES[name].points(setup)}.values())
    waiting = [point for point in points if point.key not in journal.entries]
    out = Measured(
        facts=facts,
        folder=folder,
        total=len(points),
        before=len(points) - len(waiting),
        left=len(waiting),
        left_out=shapes.left_out,
    )
    device.torch.manual_seed(0)
    state = device.state()
    try:
        for point in waiting:
            if options.time_limit is not None and clock() - start >= options.time_limit:
                break
            if progress is not None:
                progress(out.before + out.now, out.total, FAMILIES[point.family].title)
            journal.add(_measured(point, setup))
            out.now += 1
            out.left -= 1
    except KeyboardInterrupt:
        out.interrupted = True
    finally:
        setup.close()
    if progress is not None:
        progress(out.before + out.now, out.total, "writing")
    _write(out, journal, device, state, quick=options.quick)
    out.seconds = clock() - start
    return out


def _group_sizes(device: Backend, options: Options) -> tuple[int, ...]:
    have = device.torch.cuda.device_count() if device.kind == "cuda" else 2
    if options.gpus is not None and device.kind == "cuda" and options.gpus > have:
        raise InputError(f"{options.gpus} GPUs", where="--gpus", expected=f"at most {have}, as torch sees no more")
    most = options.gpus or have
    sizes = tuple(2**power for power in range(1, 10) if 2**power <= most)
    return sizes[:1] if options.quick and options.gpus is None else sizes


def _measured(point: Point, setup: Setup) -> Entry:
    """Measure one point; what the device cannot run is an answer, what broke it is not."""
    try:
        return Entry(point, FAMILIES[point.family].measure(point, setup))
    except UnmeasurableError as error:
        return Entry(point, None, str(error))
    except RuntimeError as error:  # torch's own errors, of which "out of memory" and "not implemented" are two
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "CUDA error" in text and "out of memory" not in text:
            raise PlannerError(
                f"the GPU failed at {point.key}: {text}\ntry: run again; what has been measured is kept"
            ) from None
        return Entry(point, None, text)
    finally:
        setup.backend.release()


def _write(out: Measured, journal: Journal, device: Backend, state: str, *, quick: bool) -> None:
    """Write tables and profile of everything in the journal, this run's and earlier ones'."""
    date = datetime.date.today().isoformat()
    sort = "Quick run: few small sizes, which caches may hold." if quick else "Operands taken in turns past the caches."
    after = device.state()
    note = f"{sort} Before: {state}. After: {after}."
    entries = list(journal.entries.values())
    tables = tables_of(entries, out.facts, date=date, note=note)
    paths = write_tables(tables, out.folder)
    out.tables = {path: len(table) for path, table in zip(paths, tables.values(), strict=True)}
    out.not_measurable = {entry.point.key: entry.why for entry in entries if entry.results is None}
    out.warnings = doubts(out.facts, tables, after)
    lacking = what_is_lacking(out.facts, tables)
    if lacking is not None:
        out.why_no_profile = lacking
        return
    data = profile_data(out.facts, device.kind, tables, date=date, note=note, quick=quick)
    out.profile_path = out.folder / f"{out.facts.profile_name}.yaml"
    out.profile = write_profile(data, out.profile_path)
