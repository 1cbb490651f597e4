"""Models on the Hugging Face hub: the folder with its model card, download and upload.

The folder is a run folder with less in it, so that whatever takes a run takes it too.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tag2mask import __version__
from tag2mask.base.errors import first_line
from tag2mask.base.files import check_new_folder, write_text
from tag2mask.base.html import rendered
from tag2mask.config import RetrainConfig, RunConfig
from tag2mask.data.findings import Finding
from tag2mask.inference.licenses import FirstWeights, code_licenses, first_weights, hub_fields
from tag2mask.models.base import SegmentationNetwork
from tag2mask.runs.checkpoints import save_model
from tag2mask.runs.places import PictureCounts
from tag2mask.runs.protocol import protocol_line

_ADDRESS = re.compile(r"(?:hf://)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_FILES = ("config.json", "model.safetensors")


def save(
    folder: Path,
    network: SegmentationNetwork,
    config: RunConfig,
    *,
    selection: str,
    license: str | None,
    findings: Sequence[Finding] = (),
    evaluation: Mapping[str, Any] | None = None,
    pictures: PictureCounts | None = None,
) -> Path:
    """Write the folder of `Segmenter.save_pretrained`; `license` as `model_license` gives it."""
    check_new_folder(folder, "the folder")
    first = first_weights(config, selection)
    config, selection = without_paths(config), named_selection(selection)
    card = model_card(
        config,
        network.classes,
        stride=network.stride,
        first=first,
        license=license,
        selection=selection,
        evaluation=evaluation,
        pictures=pictures,
    )
    write_text(folder / "README.md", card)
    write_text(folder / "config.json", config.to_json())
    path = folder / "model.safetensors"
    save_model(path, network, config, selection=selection, findings=findings, license=license)
    return folder


def without_paths(config: RunConfig) -> RunConfig:
    """The config with the names of folders and files instead of their paths, and without `out`."""
    paths = {name: value for name in config.path_names() if (value := getattr(config, name))}
    return config.replace(**{name: _name(value) for name, value in paths.items()} | {"out": None})


def named_selection(selection: str) -> str:
    """Which weights these are, where the split may be a file."""
    return re.sub(r"(?<=best mIoU on ).+(?= at step \d+$)", lambda split: _name(split[0]), selection)


def _name(path: str) -> str:
    """The last part of a path of this system or another one."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or path


def address(source: str | Path) -> str | Path:
    """What `Segmenter.load` takes for "owner/name": "hf://owner/name" where there is no such path, else the path."""
    text = str(source)
    bare = _ADDRESS.fullmatch(text) and Path(text).suffix not in (".onnx", ".safetensors") and not Path(text).exists()
    return f"hf://{text}" if bare and not text.startswith("hf://") else source


def download(address: str) -> Path:
    """The folder of "hf://owner/name" (or "hf://owner/name@revision"), fetched once and then taken from the cache.

    Raises:
        ValueError: no such address, no such model, no connection, or a model of something else.
    """
    if not address.startswith("hf://") or (found := _ADDRESS.fullmatch(address)) is None:
        raise ValueError(
            f'A model of the hub is named "hf://owner/name" or "hf://owner/name@revision", got {address!r}.'
        )
    with _hub(f"{address}: the download from the hub failed", "log in if it is private, or give a folder") as hub:
        folder = Path(hub.snapshot_download(found["name"], revision=found["revision"], allow_patterns=list(_FILES)))
    if missing := [name for name in _FILES if not (folder / name).is_file()]:
        raise ValueError(f"{address} is no model of tag2mask: it has no {' and no '.join(missing)}.")
    return folder


def push(repo_id: str, write: Callable[[Path], Path], *, private: bool | None = None) -> str:
    """Upload the folder that `write` fills; see `Segmenter.push_to_hub`."""
    found = _ADDRESS.fullmatch(repo_id)
    if found is None or found["revision"]:
        raise ValueError(f'A repository of the hub is named "owner/name", got {repo_id!r}.')
    with (
        _hub(f"{repo_id}: the upload to the hub failed", "log in with the right to write") as hub,
        tempfile.TemporaryDirectory() as temporary,
    ):
        folder = write(Path(temporary) / "model")
        place = hub.create_repo(found["name"], private=private, exist_ok=True)
        hub.upload_folder(repo_id=found["name"], folder_path=folder, commit_message=f"tag2mask {__version__}")
    return str(place)


@contextmanager
def _hub(failed: str, cure: str) -> Iterator[Any]:
    """The package huggingface-hub; its errors become a ValueError that says what failed and what else to try."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError("Models of the hub need the package huggingface-hub: pip install huggingface-hub") from error
    try:
        yield huggingface_hub
    except (OSError, ValueError) as error:  # the library's own errors are kinds of OSError
        raise ValueError(
            f"{failed}: {first_line(error)}. Check the name and the connection (HF_HUB_OFFLINE must not be set), "
            f"{cure}."
        ) from error


def model_card(
    config: RunConfig,
    classes: tuple[str, ...],
    *,
    stride: int,
    first: FirstWeights,
    license: str | None = None,
    selection: str = "last step",
    evaluation: Mapping[str, Any] | None = None,
    pictures: PictureCounts | None = None,
) -> str:
    """README.md of a model: what it finds, how it was trained, its scores with their protocol, licenses, use."""
    names = ", ".join(classes) if len(classes) <= 6 else f"{', '.join(classes[:5])} and {len(classes) - 5} more"
    values: dict[str, Any] = {"rows": []}
    if evaluation is not None:
        protocol = dict(evaluation["protocol"])
        values["data"] = _name(str(protocol.get("data", config.data)))
        protocol |= {key: _name(str(protocol[key])) for key in ("data", "split", "masks_from") if key in protocol}
        if "model_selection" in protocol:
            protocol["model_selection"] = named_selection(str(protocol["model_selection"]))
        rows = [*evaluation["iou"].items(), ("**mIoU**", evaluation["miou"])]
        values |= {"rows": rows, "miou": evaluation["miou"], "protocol": protocol_line(protocol)}
    return rendered(
        "inference/model_card.md",
        title=f"{config.preset_name}: {names}",
        config=config,
        second_step=isinstance(config, RetrainConfig),
        first=first,
        license=license,
        head=hub_fields(license),
        code=code_licenses(config),
        pictures=pictures,
        classes=classes,
        stride=stride,
        selection=selection,
        version=__version__,
        quoted=partial(json.dumps, ensure_ascii=False),  # JSON, which YAML reads too
        **values,
    )
