"""What the rows of a patching sweep replace."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

ALL = -1
"""Stands for all positions or all heads."""
NEVER = torch.iinfo(torch.long).max


@dataclass(frozen=True, eq=False)
class Parts:
    """Parts of a site, by row: row r is cell r % n_cells on prompt r // n_cells. Rows without parts are no cells."""

    row: Int[Tensor, " part"]
    """In ascending order."""
    layer: Int[Tensor, " part"]
    position: Int[Tensor, " part"]
    """Or ALL."""
    head: Int[Tensor, " part"]
    """Or ALL."""
    n_cells: int
    n_prompts: int

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return self.n_cells * self.n_prompts

    @cached_property
    def first_layer(self) -> Int[Tensor, " row"]:
        """Layer of a row's first part; NEVER without any."""
        return self._least(self.layer)

    @cached_property
    def first_position(self) -> Int[Tensor, " row"]:
        """First position that a row replaces; NEVER without any."""
        return self._least(self.position.clamp(min=0))

    @cached_property
    def last_position(self) -> Int[Tensor, " row"]:
        """Last position that a row names; -1 where it replaces all positions, or none."""
        out = torch.full((self.n_rows,), ALL)
        return out.scatter_reduce(0, self.row, self.position, "amax")

    @cached_property
    def pointer(self) -> Int[Tensor, " row_and_end"]:
        """Where the parts of each row begin, and the end of all."""
        return torch.searchsorted(self.row, torch.arange(self.n_rows + 1))

    def block(self, start: int, stop: int) -> "Parts":
        """The parts of prompts `start` to `stop` alone, their rows counted from 0."""
        first, last = (int(self.pointer[n * self.n_cells]) for n in (start, stop))
        row = self.row[first:last] - start * self.n_cells
        layer, position, head = (column[first:last] for column in (self.layer, self.position, self.head))
        return Parts(row, layer, position, head, self.n_cells, stop - start)

    def only(self, cells: Int[Tensor, " cell"]) -> "Parts":
        """The same rows with the parts of these cells alone; the others are without."""
        kept = torch.isin(self.row % self.n_cells, cells)
        row, layer, position, head = (c[kept] for c in (self.row, self.layer, self.position, self.head))
        return Parts(row, layer, position, head, self.n_cells, self.n_prompts)

    def together(self, sets: Sequence[Int[Tensor, " _"]]) -> "Parts":
        """One cell a set, which replaces all that the cells of the set replace."""
        cell, own = self.row % self.n_cells, self.row // self.n_cells * len(sets)
        kept = [torch.isin(cell, one).nonzero()[:, 0] for one in sets]
        part = torch.cat(kept)
        row = own[part] + torch.arange(len(sets)).repeat_interleave(torch.tensor([len(one) for one in kept]))
        order = row.argsort(stable=True)
        layer, position, head = (c[part[order]] for c in (self.layer, self.position, self.head))
        return Parts(row[order], layer, position, head, len(sets), self.n_prompts)

    def of(self, rows: Int[Tensor, " row"]) -> tuple[Int[Tensor, " part"], Int[Tensor, " part"]]:
        """Of some rows: for each of their parts the number of the row among `rows`, and the number of the part."""
        first = self.pointer[rows]
        counts = self.pointer[rows + 1] - first
        mine = torch.arange(len(rows)).repeat_interleave(counts)
        within = torch.arange(len(mine)) - (counts.cumsum(0) - counts)[mine]
        return mine, first[mine] + within

    def _least(self, value: Int[Tensor, " part"]) -> Int[Tensor, " row"]:
        return torch.full((self.n_rows,), NEVER).scatter_reduce(0, self.row, value, "amin")


def repeated(
    cell: Int[Tensor, " part"],
    layer: Int[Tensor, " part"],
    position: Int[Tensor, " part"],
    head: Int[Tensor, " part"],
    n_cells: int,
    n_prompts: int,
) -> Parts:
    """The same cells on every prompt; parts in any order."""
    order = cell.argsort(stable=True)
    row = (torch.arange(n_prompts)[:, None] * n_cells + cell[order]).flatten()
    layer, position, head = (column[order].repeat(n_prompts) for column in (layer, position, head))
    return Parts(row, layer, position, head, n_cells, n_prompts)
