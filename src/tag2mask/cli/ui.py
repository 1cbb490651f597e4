"""The command ui: a page in the browser."""

from __future__ import annotations

import sys
from pathlib import Path

from tag2mask.cli.advice import beside, next_command
from tag2mask.cli.common import Command, Device, Json, Result, Run


class Ui(Command):
    """A local page: drop a picture, see its mask and how it came about, save it."""

    run: Run
    """Run folder, .safetensors or .onnx file."""
    port: int = 7860
    """Port on this machine (127.0.0.1); 0 takes a free one."""
    ranked: Path | None = None
    """Folder that predict --rank wrote, to browse its list."""
    pictures: Path | None = None
    """Folder of the pictures of that list."""
    device: Device = "auto"
    json: Json = False

    def _run(self) -> Result:
        from tag2mask.web.server import ui

        addresses: list[str] = []

        def ready(address: str) -> None:
            addresses.append(address)
            print(f"the page is at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)

        ui(**self.arguments(), ready=ready)
        if self.pictures is None:
            line = next_command("ui", self.run, port=None if self.port == Ui.port else self.port)
        else:
            line = next_command("predict", self.run, self.pictures, out=beside(self.pictures, "masks"))
        return {"address": addresses[0]}, ["the page is closed; what you did not save from it is gone", line], 0
