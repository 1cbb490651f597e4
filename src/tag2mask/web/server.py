"""Serving the page: on loopback only, nothing from other hosts, limits on what is sent to it."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tag2mask.base.options import public
from tag2mask.inference.segmenter import Segmenter
from tag2mask.web.actions import ranked_list

log = logging.getLogger("tag2mask")

HOST = "127.0.0.1"
MAX_FILE_MIB = 64
"""Largest file that the page takes."""
MAX_KEPT_FILES, MAX_KEPT_MIB = 2000, 2048
"""Most files, and most of all their sizes, that lie here, uploads and what is shown; they go after an hour."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""The browser loads nothing from, and sends nothing to, any other host."""
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


@public
def ui(
    run: str | Path | Segmenter,
    *,
    port: int = 7860,
    ranked: str | Path | None = None,
    pictures: str | Path | None = None,
    device: str = "auto",
    ready: Callable[[str], object] | None = None,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        run: Run folder, .safetensors or .onnx file, or `Segmenter`.
        port: Of this machine; 0 takes a free one.
        ranked: Folder that `predict --rank` wrote, to browse its list.
        pictures: Folder of the pictures of that list.
        device: Where the network runs.
        ready: Called with the page's address once it answers.

    Raises:
        ValueError: Gradio is not installed, `ranked` without `pictures`, or no model.
        OSError: the port is taken.
    """
    with serving(run, port=port, ranked=ranked, pictures=pictures, device=device) as address:
        if ready is not None:
            ready(address)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


@contextlib.contextmanager
def serving(
    run: str | Path | Segmenter,
    *,
    port: int = 0,
    ranked: str | Path | None = None,
    pictures: str | Path | None = None,
    device: str = "auto",
) -> Iterator[str]:
    """The page's address, as long as the block lasts; arguments as `ui`."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError('The page needs the package gradio, which is not installed: pip install "tag2mask[ui]"')
    if (ranked is None) != (pictures is None):
        raise ValueError("--ranked DIR and --pictures DIR belong together: the list, and the folder of its pictures")
    order = [] if ranked is None or pictures is None else ranked_list(Path(ranked), Path(pictures))
    segmenter = Segmenter.load(run, device=device)
    listener = _listener(port)
    with listener, tempfile.TemporaryDirectory(prefix="tag2mask-ui-") as folder:
        # read when gradio is imported
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        import uvicorn

        app = _app(segmenter, str(run) if not isinstance(run, Segmenter) else "model", Path(folder), order)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", access_log=False))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        if not server.started:
            raise RuntimeError("The page's server did not start; see the lines above")
        try:
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


def _listener(port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be 0 to 65535, got {port}; 0 takes a free one")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"Port {port} of {HOST} cannot be used ({error.strerror}). Choose another with --port N"
        ) from error
    return listener


def refusal(method: str, path: str, headers: Mapping[str, str], uploads: Path) -> tuple[int, str] | None:
    """Status and reason for a request that is turned away: from a page of another site, or more than may lie here.

    The names of `headers` are in lower case; `uploads` is the folder of what was sent.
    """
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return 403, "A page of another site cannot use this one. Open its own address."
    if method != "POST" or not path.rstrip("/").endswith("/upload"):
        return None
    length = headers.get("content-length", "")
    if not length.isdecimal() or len(length) > 15:
        return 411, "An upload must say how many bytes it has."
    kept = [path.lstat().st_size for path in uploads.rglob("*") if path.is_file()]
    if len(kept) >= MAX_KEPT_FILES or int(length) + sum(kept) > MAX_KEPT_MIB << 20:
        return 413, f"The page holds at most {MAX_KEPT_FILES} files and {MAX_KEPT_MIB} MiB. Start it again to empty it."
    return None


def _app(segmenter: Segmenter, title: str, folder: Path, order: list[Any]) -> Any:
    import gradio as gr
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import PlainTextResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from tag2mask.web.page import CSS, THEME, build_page

    saved, uploads = folder / "saved", folder / "uploads"
    saved.mkdir()
    uploads.mkdir()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        refused = refusal(request.method, request.url.path, request.headers, uploads)
        response = await call_next(request) if refused is None else PlainTextResponse(refused[1], refused[0])
        response.headers.update(_HEADERS)
        return response

    # another site that points its name to this machine is turned away
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    page = build_page(segmenter, title, saved, order, uploads=uploads)
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=HOST,
        allowed_paths=[str(saved)],
        max_file_size=f"{MAX_FILE_MIB}mb",
        footer_links=[],
        ssr_mode=False,
        show_error=False,
        theme=THEME,
        css=CSS,
        i18n=gr.I18n(en={"common.upload": "Add pictures"}),  # gradio 6 asks for this text and does not have it
    )
