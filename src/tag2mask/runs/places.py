"""Where a run's files lie: paths spelled out, and the list by which data that has moved is known again."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tag2mask.base.files import write_text
from tag2mask.config import RetrainConfig, RunConfig, TrainConfig, load_config
from tag2mask.config.formats import DataOptions
from tag2mask.data import PictureSet, split_list

_Config = TypeVar("_Config", bound=RunConfig)

RECORD = "pictures.json"
"""File of a run folder: the pictures that it learns from, validates on and has set aside."""
OLDER = f"as many as before, where that is known; this run is of an older version and has no {RECORD} to compare more"
_SHOWN = 3


def located(config: _Config) -> _Config:
    """The config with its folders and files spelled out, so that it means the same from any folder.

    `out` is left to whoever makes the folder. A split's name stays one, even where a file happens to bear that name.
    """
    changes = {}
    for each in dataclasses.fields(config):
        value, marks = getattr(config, each.name), each.metadata
        if "path" not in marks or not value or each.name == "out" or value in marks.get("words", ()):
            continue
        if "split" in marks:
            path = split_list(config.data, value, options=DataOptions.of(config))
        else:
            path = Path(value).expanduser()
            path = path if each.name == "data" or path.exists() else None  # data may be a pattern
        if path is not None:
            changes[each.name] = str(path.resolve())
    return config.replace(**changes)


def moved(saved: RunConfig, asked: RunConfig) -> dict[str, tuple[str, str]]:
    """Fields in which `asked` may differ from the config of a run that goes on: where the same files lie now.

    A split is one only where it was, or is, a list file; masks only where there were some.
    """
    found, splits = {}, saved.path_names(split=True)
    for name in saved.path_names(moves=True):
        old, new = getattr(saved, name), getattr(asked, name, None)
        if old == new or not old or not new:
            continue
        if name not in splits or Path(old).is_absolute() or Path(new).is_file():
            found[name] = (old, new)
    return found


def as_before(saved: RunConfig, asked: RunConfig, step: int) -> RunConfig:
    """`asked` with the tag steps and learning rate of `saved`, where a run that stands at `step` may change these.

    It may while there are tag steps to come that they are for and the joint phase has not begun: more tag steps, and
    another learning rate of the tag phase.
    """
    if not isinstance(saved, TrainConfig) or not isinstance(asked, TrainConfig):
        return asked
    if not step <= saved.tag_steps <= asked.tag_steps or step == asked.tag_steps:
        return asked
    optim = dataclasses.replace(asked.optim, lr=saved.optim.lr)
    return asked.replace(tag_steps=saved.tag_steps, optim=optim)


def going_on(run: Path, asked: RunConfig, step: int) -> RunConfig:
    """The config that a run goes on with at `step`: its own, with the places that `asked` names where files have moved,
    and with what may change there (`as_before`).

    Raises:
        ValueError: `asked` differs in something else.
    """
    saved = load_config(run)
    asked = asked.found_in(saved)
    changed = {name: new for name, (_, new) in moved(saved, asked).items()}
    before = as_before(saved, asked, step)
    if saved.replace(**changed) != before:
        raise ValueError(
            f"{run} was trained with other settings; going on takes everything from its config.json. Only more "
            "--tag-steps, and with them --optim.lr, may be given while the joint phase has not begun"
        )
    found = saved.replace(**{name: getattr(located(asked), name) for name in changed})
    if isinstance(asked, TrainConfig) and before != asked:
        # the tag phase of another run would be shorter than that of this config
        return found.replace(tag_steps=asked.tag_steps, optim=asked.optim, tag_phase=None)
    return found


def write_record(
    run: Path, config: RunConfig, pictures: PictureSet, held_out: PictureSet | None, aside: PictureSet | None
) -> None:
    """Write the pictures of a run by name, size in bytes and tags, and the masks that teach by size in bytes."""
    write_text(run / RECORD, json.dumps(_record(config, pictures, held_out, aside), separators=(",", ":")) + "\n")


def recorded_aside(run: Path) -> frozenset[str]:
    """Names of the training pictures that a run has set aside; none where no list says so."""
    try:
        return frozenset(json.loads((run / RECORD).read_text(encoding="utf-8"))["aside"])
    except (OSError, ValueError, KeyError, TypeError):  # of an older version; `check_record` says what is damaged
        return frozenset()


@dataclass(frozen=True)
class PictureCounts:
    """How many pictures a run has learned from."""

    train: int
    untagged: int
    """Those of `train` without any tag."""
    held_out: int
    """Pictures that it was validated on or has set aside."""
    tagged: dict[str, int]
    """Pictures of `train` by class."""


def recorded_counts(run: Path) -> PictureCounts | None:
    """The numbers of a run's pictures; None where no list says so."""
    try:
        record: dict[str, Any] = json.loads((run / RECORD).read_text(encoding="utf-8"))
        tags = [columns[1] for columns in record["train"].values()]
        found = Counter(record["classes"][index] for each in tags for index in each)
        held_out = len(record["val"]) + len(record.get("aside", ()))
        tagged = {name: found[name] for name in record["classes"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):  # of an older version, or damaged
        return None
    return PictureCounts(len(tags), sum(not each for each in tags), held_out, tagged)


def check_record(
    run: Path, config: RunConfig, pictures: PictureSet, held_out: PictureSet | None, aside: PictureSet | None
) -> list[str]:
    """What differs between the pictures of a run and those that it would go on with; empty where they are the same.

    Of a run of an older version, which has no such list, the numbers of pictures are compared.

    Raises:
        ValueError: the list of the run cannot be read.
    """
    path = run / RECORD
    if not path.is_file():
        return _older_differences(run, [each for each in (pictures, held_out) if each is not None])
    try:
        old: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        new = json.loads(json.dumps(_record(config, pictures, held_out, aside)))
        before, now = old["classes"], new["classes"]
        told = [] if before == now else [f"the classes were {_some(before)} and are {_some(now)}"]
        for part, words in (("train", "train"), ("val", "val"), ("aside", "those set aside")):
            told += _differences(words, old.get(part, {}) if part == "aside" else old[part], new[part])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is damaged ({error!r}). Remove it to compare numbers of pictures alone") from error
    return told


def _record(
    config: RunConfig, pictures: PictureSet, held_out: PictureSet | None, aside: PictureSet | None
) -> dict[str, Any]:
    masks = isinstance(config, RetrainConfig) or (isinstance(config, TrainConfig) and bool(config.masks_for_some))
    return {
        "classes": list(pictures.classes),
        "columns": ["bytes", "tags", "bytes of the mask that teaches"],
        "train": {p.name: [_bytes(p.path), list(p.tags), _bytes(p.mask if masks else None)] for p in pictures.pictures},
        "val": {p.name: [_bytes(p.path), [], None] for p in (held_out.pictures if held_out else ())},
        "aside": {p.name: [_bytes(p.path), list(p.tags), None] for p in (aside.pictures if aside else ())},
    }


def _bytes(path: Path | None) -> int | None:
    """Size of a file; None for none, and for what lies inside of another one, as in a tar file."""
    try:
        return path.stat().st_size if path else None
    except OSError:
        return None


def _differences(part: str, old: dict[str, list[Any]], new: dict[str, list[Any]]) -> list[str]:
    told = []
    if gone := [name for name in old if name not in new]:
        told.append(f"{len(gone)} pictures of {part} are missing ({_some(gone)})")
    if more := [name for name in new if name not in old]:
        told.append(f"{len(more)} pictures of {part} are new ({_some(more)})")
    for column, what in enumerate(("sizes", "tags", "training masks")):
        if changed := [name for name in old if name in new and old[name][column] != new[name][column]]:
            told.append(f"{len(changed)} {what} of {part} differ ({_some(changed)})")
    if not told and list(old) != list(new):
        told.append(f"the pictures of {part} are in another order")
    return told


def _older_differences(run: Path, sets: Sequence[PictureSet]) -> list[str]:
    try:
        known = json.loads((run / "environment.json").read_text(encoding="utf-8"))["data"]
        before = [split["num_images"] for split in known.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    now = [len(each.pictures) for each in sets]
    return [] if before == now else [f"the numbers of pictures were {before} and are {now}"]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")


def own_reading(run: object, data: Path, asked: DataOptions) -> DataOptions:
    """How a data set is read for a run: the one that it was trained on is split as it was then, if nothing is asked.

    Else what it was trained on would be among what it is scored on. Only `group_by` is taken over.
    """
    config = getattr(run, "config", None)
    if isinstance(run, str | Path) and Path(run).is_dir():
        with suppress(ValueError, OSError):
            config = load_config(Path(run))
    if not isinstance(config, RunConfig) or asked.group_by or not config.group_by:
        return asked
    same = Path(config.data).expanduser().resolve() == data.expanduser().resolve()
    return dataclasses.replace(asked, group_by=config.group_by) if same else asked
