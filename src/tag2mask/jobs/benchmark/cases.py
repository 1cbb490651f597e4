"""What `bench` measures: the lines of its table, and their names."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from tag2mask.config import CRFParams
from tag2mask.jobs.benchmark.inputs import Size
from tag2mask.jobs.benchmark.timing import Clock

QUICK_SHRINK = 4
"""`quick` divides the sides of the pictures by this."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table before it is measured: what runs on which pictures."""

    work: str
    """`{size}` stands for the size of the pictures, `{other}` for that of the peer's."""
    bar: float
    against: str = "two pydensecrf runs"
    size: Size = (448, 448)
    labels: int = 3
    runs: int = 2
    """Unaries of each picture."""
    batch: int = 1
    params: CRFParams = field(default_factory=CRFParams.mining)
    threads: int = 1
    """Threads of tag2mask, and processes of pydensecrf."""
    cold: bool = False
    """Forget the cached spatial lattices before each run."""
    backend: Literal["auto", "torch"] = "auto"
    device: Literal["cpu", "cuda"] = "cpu"
    energy: bool = False
    """The filter of the dense energy instead of a CRF, as a share of one CRF run at `ENERGY_PEER`."""

    @property
    def clock(self) -> Clock:
        """CPU time for one thread, else wall time."""
        return "cpu" if self.threads == 1 and self.device == "cpu" else "wall"


_PAIR = "both CRF runs of a picture (R = 2), {size}, "
ENERGY_PEER: Size = (375, 500)
_ENERGY = Case(
    work="energy filter 4 × 21 channels, one thread, {size}",
    bar=0.0,
    against="share of one pydensecrf run at {other}, L = 21",
    batch=4,
    labels=21,
    runs=1,
    energy=True,
)
_SINGLE = Case(work="", bar=0.0, against="one pydensecrf run", runs=1)
CASES: dict[str, Case] = {
    "pair-l3": Case(work=_PAIR + "L = 3, one thread", bar=10.0),
    "pair-l5": Case(work=_PAIR + "L = 5, one thread", bar=7.0, labels=5),
    "pair-l21": Case(work=_PAIR + "L = 21, one thread", bar=4.0, labels=21),
    "cold-l3": replace(_SINGLE, work="single run with nothing cached, {size}, L = 3, one thread", bar=5.0, cold=True),
    "batch-8": Case(
        work="both runs, batch of 8, {size}, L = 3, two threads",
        bar=10.0,
        against="pydensecrf in two processes",
        batch=8,
        threads=2,
    ),
    "inference-l21": replace(
        _SINGLE,
        work="inference CRF, {size}, L = 21, one thread",
        bar=4.0,
        size=(375, 500),
        labels=21,
        params=CRFParams.inference(),
    ),
    "energy-160": replace(_ENERGY, size=(160, 160), bar=0.019),
    "energy-224": replace(_ENERGY, size=(224, 224), bar=0.039),
    "twin-l3": replace(_SINGLE, work="torch twin on CPU, {size}, L = 3, one thread", bar=0.5, backend="torch"),
    "cuda-batch-8": Case(
        work="CUDA, batch of 8 pairs at {size}, L = 3",
        bar=200.0,
        against="two pydensecrf runs per picture, one core",
        batch=8,
        device="cuda",
    ),
}
