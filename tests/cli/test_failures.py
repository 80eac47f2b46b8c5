"""What is not the user's fault: internal errors, interrupts, readers that go away, terminals without colour."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys

import pytest

from tests.cli.conftest import SERVING, Outcome, Run

FAULTY = (
    "import planner.model\ndef broken(*arguments, **options):\n    raise {error}\nplanner.model.load_model = broken\n"
)


def test_internal_error_is_one_message_with_a_way_to_see_more(apart: Run) -> None:
    code = FAULTY.format(error="RuntimeError('the flux ran out [red]')")
    outcome = apart(*SERVING, code=code)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith("error: internal error: RuntimeError: the flux ran out [red]\n")
    assert "--traceback" in outcome.stderr and "Traceback" not in outcome.stderr
    assert "Traceback" in apart("--traceback", *SERVING, code=code).stderr
    assert "Traceback" in apart(*SERVING, code=code, PLANNER_TRACEBACK="1").stderr


def test_interrupt(apart: Run) -> None:
    outcome = apart(*SERVING, code=FAULTY.format(error="KeyboardInterrupt"))
    assert (outcome.code, outcome.stdout, outcome.stderr) == (130, "", "error: interrupted\n")


def test_reader_that_goes_away() -> None:
    command = [sys.executable, "-c", "from planner.cli import app; app()", "schema", "plan"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def on_a_terminal(*arguments: str, **environment: str) -> Outcome:
    """Run with stderr on a terminal of 100 columns."""
    command = [sys.executable, "-c", "from planner.cli import app; app()", *arguments]
    primary, secondary = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=secondary,
        env=kept | {"TERM": "xterm-256color", "COLUMNS": "100"} | environment,
    )
    os.close(secondary)
    written = b""
    while process.poll() is None or select.select([primary], [], [], 0)[0]:
        if select.select([primary], [], [], 0.05)[0]:
            try:
                part = os.read(primary, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not part:
                break
            written += part
    os.close(primary)
    stdout, _ = process.communicate(timeout=60)
    return Outcome(process.returncode, stdout.decode(), written.decode())


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_terminal_gets_colour_and_progress_unless_told_otherwise() -> None:
    colour = re.compile(r"\x1b\[[0-9;]*[1-9][0-9;]*m")
    coloured = on_a_terminal(*SERVING, "--json")
    assert coloured.code == 0
    assert "searching" in coloured.stderr
    assert re.search(r"\x1b\[[0-9;]*3[0-9]", coloured.stderr)
    assert "\x1b" not in coloured.stdout and coloured.stdout.startswith("{")
    plain = on_a_terminal(*SERVING, "--json", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", plain.stderr)
    assert plain.stdout == coloured.stdout
    quiet = on_a_terminal(*SERVING, "--json", "--quiet")
    assert quiet.stderr == "" and not colour.search(quiet.stdout)


def test_no_colour_away_from_a_terminal(apart: Run) -> None:
    outcome = apart("models", "list")
    assert "\x1b" not in outcome.stdout + outcome.stderr
