"""The run folder: where a run writes, what it saves, how it is read back (interface: "A run folder")."""

from __future__ import annotations

import csv
import json
import logging
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tag2mask import __version__
from tag2mask.base.files import check_new_folder, model_file, whole_file, write_atomically
from tag2mask.base.processes import usable_cores
from tag2mask.base.spelling import stored_classes
from tag2mask.config import RunConfig, parse_config, require_finished
from tag2mask.data.findings import Finding
from tag2mask.data.storage.tables import MAX_CLASSES, is_class_name
from tag2mask.models import build_network
from tag2mask.models.base import SegmentationNetwork
from tag2mask.models.published import check_finite, misfits
from tag2mask.runs.learned import FINDINGS

log = logging.getLogger("tag2mask")

METRICS = (
    "step",
    "phase",
    "lr",
    "tag_loss",
    "segmentation_loss",
    "energy_loss",
    "class_distance_loss",
    "total_loss",
    "reliable_share",
    "images_per_second",
    "mining_share",
    "skipped_steps",
    "miou",
    "tag_map",
)


def new_run_folder(out: str | None, preset: str) -> Path:
    """Make the run folder: `out` if given, else runs/<preset>, runs/<preset>-2, ...

    Raises:
        FileExistsError: `out` already holds something; nothing is ever overwritten silently.
    """
    if out is not None:
        folder = Path(out)
        check_new_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            (folder / "log.txt").touch(exist_ok=False)
        except FileExistsError as error:
            raise FileExistsError(
                f"--out {folder}: another run has just begun there. Choose another folder."
            ) from error
        return folder
    number = 1
    while True:
        folder = Path("runs") / (preset if number == 1 else f"{preset}-{number}")
        try:
            folder.mkdir(parents=True, exist_ok=False)
            return folder
        except FileExistsError:
            number += 1


def environment() -> dict[str, Any]:
    """Versions and hardware of this process, for `environment.json`."""
    import timm
    import torchvision

    return {
        "tag2mask": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "cpu_count": usable_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": sys.argv,
    }


def peak_memory() -> dict[str, int]:
    """The most memory that this process has held, in MiB, and that on its GPU, where there is one."""
    found: dict[str, int] = {}
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["peak_memory_mib"] = round(peak / (2**20 if sys.platform == "darwin" else 2**10))
    if torch.cuda.is_available():
        found["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return found


@contextmanager
def log_to(run: Path) -> Iterator[None]:
    """Write what is logged, and the error that ends the work, to `log.txt`.

    Raises:
        FileExistsError: another process trains in this folder.
    """
    lock = FileLock(run / ".lock", timeout=0)
    try:
        with suppress(NotImplementedError):  # a file system without locks
            lock.acquire()
    except Timeout as error:
        raise FileExistsError(
            f"Another process is training in {run}, and two would overwrite each other's files: wait for its end, or "
            "stop it first."
        ) from error
    handler = logging.FileHandler(run / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    except BaseException as error:
        # to the file alone: whoever called says it to the person
        told = f"{type(error).__name__}: {error}"
        handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, told, (), None))
        raise
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()
        with suppress(OSError):  # Windows removes no open file
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


@contextmanager
def errors_only() -> Iterator[None]:
    """Log nothing but errors: of several processes that train together one speaks for all."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def save_model(
    path: Path,
    model: SegmentationNetwork,
    config: RunConfig,
    *,
    selection: str = "last step",
    findings: Sequence[Finding] = (),
) -> None:
    """Write weights and everything needed to load them alone.

    Args:
        path: A `.safetensors` file.
        model: Network to save.
        config: Resolved config of the run, kept in the metadata.
        selection: Which model this is: "last step" or "best mIoU on val at step N".
        findings: What is to be said of the model wherever it is used, see `tag2mask.training.learned`.
    """
    metadata = {
        "format": "tag2mask",
        "version": __version__,
        "config": config.to_json(),
        "classes": json.dumps(list(model.classes), ensure_ascii=False),
        "selection": selection,
    }
    if findings:
        metadata[FINDINGS] = json.dumps([each.as_dict() for each in findings], ensure_ascii=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with _saving(path):
        write_atomically(path, lambda p: save_file(tensors, p, metadata=metadata), durable=True)


def load_model(source: Path) -> tuple[SegmentationNetwork, RunConfig, dict[str, str]]:
    """Read a network back from a run folder or a `.safetensors` file.

    Returns:
        The network in eval mode on the CPU, its config, and the file's metadata ("classes", "selection", "version").

    Raises:
        FileNotFoundError: no such file, or a run that has not written its model yet.
        ValueError: a file that tag2mask did not write, or one that does not fit its own config.
    """
    source = Path(source)
    path = model_file(source)
    require_finished(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a run folder or a .safetensors file of tag2mask")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    except Exception as error:  # safetensors raises its own error type for damaged files
        raise ValueError(f"{path} is no readable .safetensors file: {error}") from error
    if metadata.get("format") == "tag2mask weights":
        raise ValueError(f"{path} holds weights to start a training from (--weights {path}), not a whole model")
    if "config" not in metadata or "classes" not in metadata:
        raise ValueError(f"{path} was not written by tag2mask: its metadata has no config and classes")
    try:
        config = parse_config(metadata["config"])
        network = build_network(config, read_classes(metadata["classes"]), pretrained=False)
    except ValueError as error:
        raise ValueError(
            f"{path}: {error}. Its metadata is damaged or of another version; get the file anew"
        ) from error
    wanted = network.state_dict()
    if missing := sorted(wanted.keys() ^ tensors.keys()):
        raise ValueError(
            f"{path} does not fit its own config; tensors that differ: {', '.join(missing[:5])}. Get the file anew"
        )
    if told := misfits(tensors, wanted):
        raise ValueError(f"{path} does not fit its own config and classes: {told}. Get the file anew")
    check_finite(tensors, path, "Get it anew, or train again with a lower --optim.lr")
    network.load_state_dict(tensors)
    return network.eval(), config, metadata


def read_classes(text: str) -> tuple[str, ...]:
    """The class names that a file's metadata holds as JSON.

    Raises:
        ValueError: no list of different names, or more than a mask can hold.
    """
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its classes are not JSON ({error})") from error
    if not isinstance(names, list) or not names or not all(is_class_name(name) for name in names):
        raise ValueError(f"its classes must be a list of names without control characters, got {text[:80]!r}")
    if len(set(names)) < len(names) or len(names) > MAX_CLASSES:
        raise ValueError(f"its classes must be at most {MAX_CLASSES} different names, got {len(names)}")
    return stored_classes(names)


def save_state(run: Path, state: Mapping[str, Any]) -> None:
    """Replace the resumable state `last/state.pt`; the old one stays until the new one is complete on the disk."""
    path = run / "last" / "state.pt"
    with _saving(path):
        write_atomically(path, lambda p: torch.save(dict(state), p), durable=True)


@contextmanager
def _saving(path: Path) -> Iterator[None]:
    """Full disks and the like as OSError with a cure: safetensors and torch.save have kinds of their own for them."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        kept = "the one before it is whole" if path.is_file() else "nothing is left of it"
        raise OSError(
            f"{path} could not be written ({reason}); {kept}. Free some space or correct the permissions of "
            f"{path.parent}, then go on with --resume where last/state.pt is there."
        ) from error


def load_state(run: Path) -> dict[str, Any]:
    """The state that `save_state` wrote, on the CPU.

    Raises:
        FileNotFoundError: the run has saved nothing to go on from.
        ValueError: the file is damaged, or holds anything but tensors and plain values: no code in it ever runs.
    """
    path = run / "last" / "state.pt"
    if not path.is_file():
        raise FileNotFoundError(f"{run} has no saved state to go on from (last/state.pt); train it anew")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have their own kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} cannot be read as the state of a run ({reason}). Train the run anew") from error
    if not isinstance(state, dict) or not _STATE.issubset(state):
        lacks = ", ".join(sorted(_STATE - set(state))) if isinstance(state, dict) else "everything"
        raise ValueError(f"{path} is no state of a run: it lacks {lacks}. Train the run anew")
    return state


_STATE = frozenset(
    ("model", "optimizer", "average", "step", "skipped", "nonfinite_in_a_row", "broken", "best_miou", "rng")
)


def _step_of(row: Mapping[str, Any], path: Path) -> int:
    """The step of a row of metrics.csv.

    Raises:
        ValueError: the row is not as `MetricsFile` writes it.
    """
    step = row.get("step") or ""
    if set(row) != set(METRICS) or not step.isdecimal() or len(step) > 12:
        raise ValueError(f"{path} is damaged: a row has the step {step[:40]!r}. Remove the file to go on without it")
    return int(step)


class MetricsFile:
    """`metrics.csv`: one row per logged step; going on from a step drops the rows behind it."""

    def __init__(self, run: Path, resume_step: int = 0) -> None:
        self.path = run / "metrics.csv"
        rows = []
        if self.path.is_file():
            # a kill may have cut the last line, which then lies behind the saved step and is dropped with the others
            whole, _, _ = self.path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
            rows = [row for row in csv.DictReader(whole.splitlines()) if _step_of(row, self.path) <= resume_step]
        with whole_file(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, METRICS)
            writer.writeheader()
            writer.writerows(rows)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row; columns that are absent stay empty."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, METRICS).writerow(
                {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
            )
