"""Which layers a stage really holds where the pipeline is interleaved.

A stage's layers are stated as if stages were consecutive: ``[first, end)``. Interleaved over v chunks, each stage cuts
its number of layers into v chunks; microbatches pass the first chunk of every stage, then the second of every stage,
and layers are numbered in that order. Chunks are equal, but that the embedding may count as a layer of the first chunk,
and the head as one of the last.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["chunk_fault", "chunk_layers", "chunk_sizes"]


def chunk_sizes(layers_S: Sequence[int], virtual_stages: int) -> tuple[tuple[int, ...], ...]:
    """Layers in each chunk of each stage; those left over go to later chunks on the first stage, else to earlier ones.

    Examples
    --------
    >>> chunk_sizes([15, 16, 15], 4)
    ((3, 4, 4, 4), (4, 4, 4, 4), (4, 4, 4, 3))
    """
    sizes = []
    for s, count in enumerate(layers_S):
        quotient, extra = divmod(count, virtual_stages)
        more = range(virtual_stages - extra, virtual_stages) if s == 0 else range(extra)
        sizes.append(tuple(quotient + (v in more) for v in range(virtual_stages)))
    return tuple(sizes)


def chunk_fault(layers_S: Sequence[int], virtual_stages: int) -> str | None:
    """Why stages of so many layers cannot be interleaved, or None.

    Examples
    --------
    >>> chunk_fault([15, 16, 15], 4) is None
    True
    >>> chunk_fault([15, 15, 16], 4)
    '4 virtual stages do not divide the 15 layers of stage 1'
    """
    if virtual_stages == 1:
        return None
    if len(layers_S) == 1:
        return f"{virtual_stages} virtual stages in a pipeline of one stage"
    for s, count in enumerate(layers_S):
        end = s in (0, len(layers_S) - 1)  # holds the embedding or the head
        if count % virtual_stages and not (end and (count + 1) % virtual_stages == 0):
            return f"{virtual_stages} virtual stages do not divide the {count} layers of stage {s}"
    return None


def chunk_layers(layers_S: Sequence[int], virtual_stages: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Ranges of layers that each stage holds, chunk by chunk.

    Parameters
    ----------
    layers_S
        Layers of each stage.
    virtual_stages
        Chunks of each stage.

    Examples
    --------
    >>> chunk_layers([4, 4], 2)
    (((0, 2), (4, 6)), ((2, 4), (6, 8)))
    >>> chunk_layers([4, 3], 1)
    (((0, 4),), ((4, 7),))
    """
    sizes = chunk_sizes(layers_S, virtual_stages)
    found: list[list[tuple[int, int]]] = [[] for _ in sizes]
    first = 0
    for v in range(virtual_stages):
        for s, stage in enumerate(sizes):
            found[s].append((first, first + stage[v]))
            first += stage[v]
    return tuple(tuple(ranges) for ranges in found)
