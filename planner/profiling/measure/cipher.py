"""AES-GCM on the host: bytes/s by threads and message size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from planner.errors import InputError
from planner.profiling.measure.cpu import core_count
from planner.profiling.measure.crew import Crew
from planner.profiling.measure.points import Point, Results
from planner.profiling.measure.setup import Setup
from planner.profiling.measure.timing import summed_up

__all__ = ["measure_cipher", "points"]

_OPERATIONS: Final = ("encrypt", "decrypt")
_KEY_BITS: Final = 256


def points(setup: Setup) -> Iterator[Point]:
    """Both directions by message size and threads."""
    sizes = (65536, 2**20) if setup.quick else (1024, 4096, 16384, 65536, 2**18, 2**20, 2**22, 2**24)
    cores = core_count()
    threads = sorted({2**i for i in range(cores.bit_length()) if 2**i <= cores} | {cores})
    for count in threads:
        for operation in _OPERATIONS:
            for size in sizes:
                yield Point.of("cipher", "cipher", operation=operation, threads=count, bytes=size)


def measure_cipher(point: Point, setup: Setup) -> Results:
    """Let that many processes work for the same while; processes, as the library holds Python's lock."""
    crew = setup.crew("cipher", lambda: Crew(_work, core_count()))
    question = (
        point.whole("threads"),
        point.text("operation"),
        point.whole("bytes"),
        setup.budget.seconds / setup.budget.least,
    )
    crew.ask(question)  # warms up
    rates = [sum(crew.ask(question)) for _ in range(setup.budget.least)]
    sample = summed_up(rates)
    return {"bandwidth": sample.seconds, "spread": sample.spread}


def _work(rank: int, size: int, ask: Callable[[object], object]) -> None:
    """Body of a process: answers with its bytes/s."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise InputError("needs cryptography: pip install 'hetplan[profile]'") from None

    cipher = AESGCM(AESGCM.generate_key(_KEY_BITS))
    nonce = bytes(12)  # the same for every message is no secret, but as fast
    answer: object = rank
    while True:
        question = ask(answer)
        if not isinstance(question, tuple):
            return
        threads, operation, length, seconds = question
        answer = 0.0
        if rank >= threads:
            continue
        message, sealed = bytes(length), bytearray(length + 16)
        cipher.encrypt_into(nonce, message, None, sealed)
        opened = bytearray(length)
        done, start = 0, time.perf_counter()
        while True:
            for _ in range(max(1, 2**18 // length)):
                if operation == "encrypt":
                    cipher.encrypt_into(nonce, message, None, sealed)
                else:
                    cipher.decrypt_into(nonce, sealed, None, opened)
                done += length
            passed = time.perf_counter() - start
            if passed >= seconds:
                break
        answer = done / passed
