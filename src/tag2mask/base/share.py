"""The part of the work that one of several equal processes does. Imports nothing of ours."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of the pictures that one of several processes does."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"a share is (index, count) with 0 <= index < count, got ({self.index}, {self.count})")

    @classmethod
    def of_environment(cls) -> Share:
        """RANK and WORLD_SIZE, as torchrun, accelerate and many schedulers set them; else everything. For commands.

        Raises:
            ValueError: they are no such numbers.
        """
        rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
        if rank is None or world is None:
            return cls()
        if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
            raise ValueError(f"RANK must be less than WORLD_SIZE, both whole numbers; got {rank!r} and {world!r}")
        return cls(index=int(rank), count=int(world))

    def __str__(self) -> str:
        return f"process {self.index} of {self.count}"

    def range(self, total: int) -> range:
        """Indices of this process's pictures: neighbours, as they often lie in one shard."""
        return range(total * self.index // self.count, total * (self.index + 1) // self.count)
