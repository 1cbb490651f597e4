"""The docs: every block runs, every quoted error is in the source, the site builds and loads nothing from elsewhere."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import io
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
from docs_world import FOLDERS, MADE_ANEW, PLACEHOLDERS, SHORTER, write_world

from tag2mask import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

PARSED = {
    "res38_cls": "weights of another project",
    "ilsvrc-cls_rna-a1_cls1000": "weights of another project",
    "RRM_final.pth": "weights of another project",
    "RRM(attention)_final.pth": "weights of another project",
    "rrm.safetensors": "made of weights of another project",
    "hf://": "needs a network",
    "tag2mask demo": "takes minutes; .ci/run runs it",
    "tag2mask ui": "serves until Ctrl-C; tests/test_ui.py opens the page",
}
"""Commands that the real parser reads and nothing runs: a word of theirs, and why."""
OTHER_PROGRAMS = {
    "pip": "needs an index; the extras that it names are looked up",
    "pytest": "these are the tests",
    "apt-get": "changes the machine",
    "xcode-select": "changes the machine",
    "auditwheel": "needs a wheel; pytest -m packaging builds one",
    "python": "tools and experiments with a parser of their own: test_benchmark.py, test_ablation.py, test_how_many.py",
    "torchrun": "starts several processes: tests/test_distributed.py; what it starts is parsed",
    "accelerate": "starts several processes: tests/test_distributed.py; what it starts is parsed",
    "mkdocs": "test_the_site_loads_nothing_from_elsewhere runs it",
}
"""Programs in command blocks that are not run here, and why."""
NOT_EXECUTED = {"push_to_hub(": "needs a network and an account"}
"""Python blocks that are compiled only: a word of theirs, and why."""
SLOW = {"export.md": "tracing networks takes half a minute of a core"}
"""Pages that only `pytest -m slow` runs, and why; plain pytest parses their commands and compiles their Python."""


class Block(NamedTuple):
    page: str
    line: int
    heading: str
    language: str
    text: str

    @property
    def kind(self) -> str:
        """python, commands or text: a block without a language holds commands if one of its lines starts with one."""
        first_words = {line.removeprefix("$ ").split(" ")[0] for line in self.text.splitlines() if line}
        if self.language == "python":
            return "python"
        if self.language in ("bash", "console", "") and first_words & {"tag2mask", *OTHER_PROGRAMS}:
            return "commands"
        return "commands" if self.language in ("bash", "console") else "text"

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    blocks, heading, start, language = [], "", None, ""
    lines = path.read_text(encoding="utf-8").splitlines()
    for i, line in enumerate(lines):
        if start is not None:
            if line.strip() == "```":
                page = path.relative_to(ROOT).as_posix()
                blocks.append(Block(page, start + 1, heading, language, "\n".join(lines[start + 1 : i])))
                start = None
        elif found := re.match(r"```(\w*)", line):
            start, language = i, found[1]
        elif line.startswith("#"):
            heading = line.lstrip("# ").strip()
    assert start is None, f"{path}: a block is not closed"
    return blocks


BLOCKS = {path: blocks_of(path) for path in PAGES}


def commands_of(block: Block) -> list[list[str]]:
    """The commands of a block as words: continued lines joined, comments and redirections left out."""
    commands = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if ">" in words:
            words = words[: words.index(">")]
        while "&&" in words:
            commands.append(words[: words.index("&&")])
            words = words[words.index("&&") + 1 :]
        commands.append(words)
    return [words for words in commands if words]


def launched(words: list[str]) -> list[str] | None:
    """The command that torchrun or accelerate start in every process."""
    if words[0] not in ("torchrun", "accelerate"):
        return None
    if scripts := [word for word in words if word.endswith(".py")]:
        assert (ROOT / scripts[0]).is_file(), f"{' '.join(words)}: there is no {scripts[0]}"
        return None
    assert words[words.index("-m") + 1] == "tag2mask", f"{' '.join(words)} does not start tag2mask"
    return ["tag2mask", *words[words.index("-m") + 2 :]]


def reason_not_to_run(words: list[str]) -> str | None:
    return next((why for word, why in PARSED.items() if word in " ".join(words)), None)


class Parsed(Exception):
    """The arguments are right: the command has called the function that does its work."""


@contextlib.contextmanager
def nothing_runs(monkeypatch):
    """Every public function only says that it was called."""
    import tag2mask

    def called(*args, **options):
        raise Parsed

    for module in tag2mask._PUBLIC.values():  # first, or one module would import another's stand-in for good
        importlib.import_module(f"tag2mask.{module}")
    with monkeypatch.context() as patch:
        for name, module in tag2mask._PUBLIC.items():
            if name.islower():
                patch.setattr(f"tag2mask.{module}.{name}", called)
        yield


def parse_command(words: list[str], monkeypatch) -> None:
    """Parse one tag2mask command; AssertionError with what it said."""
    told = io.StringIO()
    with (
        contextlib.redirect_stdout(told),
        contextlib.redirect_stderr(told),
        nothing_runs(monkeypatch),
        contextlib.suppress(Parsed),
    ):
        code = cli.main(words[1:])
        raise AssertionError(f"{' '.join(words)} is not parsed (code {code}):\n{told.getvalue()}")


def run_command(words: list[str], monkeypatch, *, only_parsed: bool = False, reusable: bool = False) -> None:
    """Run one tag2mask command in process, or only parse it; AssertionError with what it said."""
    words = [PLACEHOLDERS.get(word, word) for word in words]
    assert words[0] == "tag2mask", f"{words[0]} is no known program"
    verb = words[1]
    told = io.StringIO()
    if only_parsed or reason_not_to_run(words):
        parse_command(words, monkeypatch)
        return
    out = Path(words[words.index("--out") + 1]) if "--out" in words else None
    before = HAVE_RUN.get(tuple(words))
    if before not in (None, Path.cwd()) and (out is None or (before / out).exists()):
        if out is not None:
            remove(out)
            copy = shutil.copytree if (before / out).is_dir() else shutil.copy
            out.parent.mkdir(parents=True, exist_ok=True)
            copy(before / out, out)
        return
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        if verb in MADE_ANEW and out is not None:
            remove(out)
        code = cli.main([*words[1:], *SHORTER.get(verb, ())])
    assert code == 0, f"{' '.join(words)} ends with code {code}:\n{told.getvalue()}"
    if reusable and (out is not None or verb in ("bench", "evaluate", "check")):
        HAVE_RUN[tuple(words)] = Path.cwd()


def remove(path: Path) -> None:
    if path.is_file():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


HAVE_RUN: dict[tuple[str, ...], Path] = {}
"""Commands that an earlier page has run in the same world, and where: their results are copied."""


@pytest.fixture(scope="session")
def world(made_once) -> Path:
    return made_once("world", write_world)


WITH_BLOCKS = [
    pytest.param(path, id=path.name, marks=[pytest.mark.slow] if path.name in SLOW else [])
    for path in PAGES
    if BLOCKS[path]
]


@pytest.mark.parametrize("path", WITH_BLOCKS)
def test_blocks_run(path, world, tmp_path, monkeypatch):
    """In the order of the page, in a folder of its own; the Python blocks of a page share their names."""
    home = tmp_path / "home"
    shutil.copytree(world, home)
    monkeypatch.chdir(home)
    names: dict[str, object] = {"__name__": "__main__"}
    prepared = None
    for block in BLOCKS[path]:
        if block.heading in FOLDERS and block.heading != prepared:
            folder, write = FOLDERS[block.heading]
            shutil.rmtree(folder, ignore_errors=True)
            write(home / folder)
            prepared = block.heading
        if block.kind == "python":
            code = compile("\n" * block.line + block.text, block.place, "exec")
            if not any(word in block.text for word in NOT_EXECUTED):
                exec(code, names)
        elif block.kind == "commands":
            run_commands(block, monkeypatch)


@pytest.mark.slow
def test_the_first_script_of_the_api_runs_under_spawn(world, tmp_path):
    """Every process that loads pictures runs the script again: its guard must hold what it does."""
    block = next(b for b in BLOCKS[ROOT / "docs" / "api.md"] if b.kind == "python")
    shutil.copytree(world / "photos", tmp_path / "photos")
    shutil.copy(world / "cat.jpg", tmp_path)
    assert "tag2mask.train(config)" in block.text
    start = "import multiprocessing\nmultiprocessing.set_start_method('spawn', force=True)\n"
    text = block.text.replace("tag_steps=1", 'device="cpu", workers=1, tag_steps=1')
    (tmp_path / "script.py").write_text(start + text)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, "each process that loads pictures ran it too"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["from-python"]


STARTS = re.compile(r"^(?!if |\s).*tag2mask\.(train|retrain|demo|bench)\(")


def test_scripts_that_start_processes_have_a_guard():
    """At the left margin nothing trains, since a process that loads pictures would train too."""
    for path in PAGES:
        for block in BLOCKS[path]:
            if block.kind == "python":
                assert not [line for line in block.text.splitlines() if STARTS.match(line)], block.place
    assert STARTS.match("run = tag2mask.train(config)")


@pytest.mark.parametrize("page", SLOW)
def test_blocks_of_slow_pages_are_read(page, monkeypatch):
    for block in BLOCKS[ROOT / "docs" / page]:
        if block.kind == "python":
            compile(block.text, block.place, "exec")
        elif block.kind == "commands":
            run_commands(block, monkeypatch, only_parsed=True)


def run_commands(block: Block, monkeypatch, *, only_parsed: bool = False) -> None:
    """Run the commands of a block; of those that torchrun and accelerate start, parse what they start."""
    for words in commands_of(block):
        try:
            started = launched(words)
            if words[0] in OTHER_PROGRAMS and started is None:
                continue
            reusable = block.heading not in FOLDERS
            only = only_parsed or started is not None
            run_command(started or words, monkeypatch, only_parsed=only, reusable=reusable)
        except AssertionError as error:
            raise AssertionError(f"{block.place}: {error}") from None


@pytest.mark.parametrize(
    "command",
    [
        "torchrun --nproc-per-node 2 -m tag2mask train small --data photos --no-such-option 3",
        "torchrun --nproc-per-node 2 -m tag2mask paint photos",
        "accelerate launch --num_processes 2 -m tag2mask train no-such-preset --data photos",
        "torchrun --nproc-per-node 2 -m something_else train small",
        "torchrun --nproc-per-node 2 tools/no_such_script.py",
        "tag2mask train small --no-such-option 3",
        "tag3mask train small",
    ],
)
def test_wrong_commands_of_a_page_are_found(command, monkeypatch, world, tmp_path):
    """What torchrun and accelerate start is parsed too, so that the test of the pages can fail on it."""
    monkeypatch.chdir(tmp_path)
    block = Block("page.md", 7, "", "", f"pip install tag2mask\n{command}")
    with pytest.raises(AssertionError, match=r"page\.md:7: "):
        run_commands(block, monkeypatch)


def test_what_is_not_run_is_listed_with_its_reason_and_counted(capsys):
    """No entry of the tables is stale, and the numbers are printed."""
    blocks = [block for page in BLOCKS.values() for block in page]
    commands = [words for block in blocks if block.kind == "commands" for words in commands_of(block)]
    ours = [words for words in commands if words[0] == "tag2mask"]
    parsed = [words for words in ours if reason_not_to_run(words)]
    compiled = [b for b in blocks if b.kind == "python" and any(word in b.text for word in NOT_EXECUTED)]
    with capsys.disabled():
        kinds = {kind: sum(block.kind == kind for block in blocks) for kind in ("python", "commands", "text")}
        print(
            f"\ndocs: {len(blocks)} blocks {kinds}; {len(ours) - len(parsed)} commands run, {len(parsed)} parsed only, "
            f"{len(commands) - len(ours)} of other programs; {len(compiled)} Python block compiled only; "
            f"{', '.join(SLOW)} runs with -m slow"
        )
    used = [
        *(word for word in PARSED if any(word in " ".join(words) for words in ours)),
        *(name for name in OTHER_PROGRAMS if any(words[0] == name for words in commands)),
        *(word for word in NOT_EXECUTED if any(word in block.text for block in compiled)),
    ]
    inline = " ".join(span for path in PAGES for span in inline_code(path))
    stale = [word for word in (*PARSED, *OTHER_PROGRAMS, *NOT_EXECUTED) if word not in used and word not in inline]
    assert not stale
    assert len(ours) - len(parsed) > 2 * len(parsed), "most commands should run"


def inline_code(path: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """The options of every verb, as its --help-all names them."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "300")
        for verb in cli.VERBS:
            told = io.StringIO()
            presets = {"train": ["small"], "retrain": ["small"]}.get(verb, [])
            with contextlib.redirect_stdout(told):
                assert cli.main([verb, *presets, "--help-all"]) == 0
            found[verb] = set(re.findall(r"--[a-z][a-z0-9.-]*[a-z0-9]", told.getvalue()))
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_commands_and_options_in_the_text_exist(path, options):
    every = set().union(*options.values(), ABLATION, OF_OTHERS)
    for span in inline_code(path):
        words = span.split()
        flags = re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", span)
        verb = words[1] if words[0] == "tag2mask" and len(words) > 1 else ""
        if verb.startswith("--") or not verb.islower() or not re.fullmatch("[a-z-]+", verb):
            unknown = set(flags) - every if words and words[0].startswith("--") else set()
        else:
            assert verb in options, f"{path.name}: `{span}`: there is no command {verb}"
            unknown = set(flags) - options[verb] - {"--field"}  # stands for any field of the settings
        assert not unknown, f"{path.name}: `{span}`: there is no option {', '.join(sorted(unknown))}"


ABLATION = {"--rows", "--second-split", "--one-seed"}
OF_OTHERS = {"--version", "--strict", "--help-all", "--nnodes"}


@pytest.mark.parametrize(
    ("page", "module", "work"),
    [("results.md", "experiments.ablation", "ablate"), ("how-many.md", "experiments.how_many", "how_many")],
)
def test_commands_of_experiments_are_parsed(page, module, work, monkeypatch, tmp_path):
    """They have a parser of their own."""
    main = importlib.import_module(f"{module}.__main__")
    lines = [
        words for block in BLOCKS[ROOT / "docs" / page] if block.kind == "commands" for words in commands_of(block)
    ]
    (words,) = [words for words in lines if words[:3] == ["python", "-m", module]]
    monkeypatch.setattr(sys, "argv", words[2:])

    def called(*args):
        raise Parsed

    monkeypatch.setattr(main, work, called)
    with pytest.raises(Parsed):
        main.main()


def table_cells(page: str, header: str) -> list[str]:
    """What stands in code in the first cells of the table with that header."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(header)) + 2
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def test_the_tour_names_every_file_of_a_run_folder(world):
    named = {name.rstrip("/") for name in table_cells("tour.md", "| in `runs/demo/run/` |")}
    optional = {"samples", "tensorboard", "evaluation.json"}
    found = {path.name for path in (world / "runs" / "demo" / "run").iterdir()}
    assert found <= named
    assert named - found <= optional, (
        "the run of these tests writes no samples and no tensorboard, and is not evaluated"
    )


def test_install_lists_every_extra():
    assert sorted(table_cells("install.md", "| extra |")) == sorted(EXTRAS)


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def test_extras_that_the_pages_install_exist():
    for path in (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "mkdocs.yml"):
        for names in re.findall(r"(?:tag2mask|\.)\[([a-z,]+)\]", path.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= set(EXTRAS), f"{path.name} installs [{names}]"


def test_every_public_name_has_a_place_in_the_api_pages():
    import tag2mask

    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("api*.md"))
    shown = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    assert {f"tag2mask.{module}.{name}" for name, module in tag2mask._PUBLIC.items()} <= shown


# Errors that the pages quote


@functools.cache
def source_texts() -> set[str]:
    """Every text of the source that is no docstring, with … for what is filled in."""
    texts = set()
    for path in (ROOT / "src" / "tag2mask").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in docs:
                continue
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.add("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
    return {" ".join(text.split()) for text in texts}


def quoted_errors(page: str) -> list[str]:
    """First cells, all in code, of the tables of messages and of what `check` says."""
    quoted, inside = [], False
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            inside = False
        elif line.startswith(("| message |", "| `check` says |")):
            inside = True
        elif inside and not line.startswith("|---"):
            quoted += re.findall(r"`([^`]+)`", line.split(" | ")[0])
    return quoted


def occurs(message: str, texts: set[str]) -> bool:
    """Whether a text of the source holds all of `message`, whose … stands for anything within one text."""
    pattern = re.compile(".*".join(re.escape(part) for part in message.split("…")))
    return any(pattern.search(text) for text in texts)


@pytest.mark.parametrize("page", ["troubleshooting.md", "good-tags.md"])
def test_quoted_errors_are_in_the_source(page):
    texts, quoted = source_texts(), quoted_errors(page)
    assert quoted
    assert not [message for message in quoted if not occurs(message, texts)]


def test_the_search_for_messages_finds_none_that_is_not_there():
    assert not occurs("There is no such … message in tag2mask", source_texts())


# The site


class Page(HTMLParser):
    """What a page loads, the ids that it has, and the classes of its elements."""

    LOADS: ClassVar = {
        "script": ("src",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src", "srcset"), "video": ("src", "poster"),
        "audio": ("src",), "embed": ("src",), "object": ("data",), "use": ("href",), "image": ("href",), "input": ("src",), "form": ("action",),
    }  # fmt: skip
    NO_LOADS: ClassVar = {"canonical", "next", "prev", "author", "license", "help", "alternate"}

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.classes: set[str] = set()
        self.components: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = {name: value or "" for name, value in attributes}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        self.classes |= set(given.get("class", "").split())
        self.components.add(given.get("data-md-component", ""))
        self.loads += [given[name] for name in self.LOADS.get(tag, ()) if name in given]
        self.loads += css_loads(given.get("style", ""))
        if tag == "link" and not set(given.get("rel", "").split()) & self.NO_LOADS:
            self.loads.append(given["href"])

    def handle_data(self, data):
        if self.cdata_elem == "style":
            self.loads += css_loads(data)


def css_loads(text: str) -> list[str]:
    return [a or b for a, b in re.findall(r"""@import\s*["']([^"']+)|url\(\s*["']?([^"')]+)""", text)]


def elsewhere(address: str) -> bool:
    return bool(urlsplit(address.strip()).netloc)


IN_SCRIPTS = {
    "www.w3.org": "the name of SVG's namespace",
    "unpkg.com/mermaid@": "drawn diagrams, which no page has",
    "unpkg.com/resize-observer-polyfill": "browsers without ResizeObserver, of 2019 and older",
    "api.github.com/": "the facts of repo_url, which is not set",
    "gitlab.com/": "the facts of repo_url, which is not set",
}
"""Addresses in the theme's scripts, and why they are never fetched."""


@pytest.fixture(scope="module")
def site(made_once) -> Path:
    return made_once("site", build_site)


def build_site(folder: Path) -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_the_site_has_every_page_and_the_docstrings(site):
    pages = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")} - {"404.md"}
    assert pages == {path.name for path in PAGES[1:]}
    page = Page(site / "api.html")
    assert {
        "tag2mask.training.first_step.train",
        "tag2mask.inference.segmenter.Segmenter.load",
        "tag2mask.scoring.evaluation.evaluate",
    } <= page.ids
    assert "Raises" in (site / "api.html").read_text(encoding="utf-8")


def test_the_site_loads_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        page = Page(path)
        assert page.loads
        assert not [address for address in page.loads if elsewhere(address)], path.name
        assert "mermaid" not in page.classes
        assert "source" not in page.components
    for path in site.rglob("*.css"):
        assert not [address for address in css_loads(path.read_text(encoding="utf-8")) if elsewhere(address)], path.name
    for path in site.rglob("*.js"):
        addresses = re.findall(r"""["'`](?:https?:)?//([\w.-]+\.\w+[^"'`]*)""", path.read_text(encoding="utf-8"))
        assert not [address for address in addresses if not address.startswith(tuple(IN_SCRIPTS))], path.name


def test_the_scan_sees_what_it_should(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<link rel="stylesheet" href="https://a.example/x.css"><link rel="canonical" href="https://b.example/">'
        '<style>@import "//c.example/y.css"; p { background: url(https://d.example/z.png) }</style>'
        '<script src="//e.example/s.js"></script><a href="https://f.example/">text</a><img src="images/own.png">'
    )
    found = [urlsplit(address).netloc[0] for address in Page(page).loads if elsewhere(address)]
    assert found == ["a", "c", "d", "e"]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_pages_outside_the_site(name, site):
    """The site's own links and anchors are checked by the strict build."""
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert targets
    for target in targets:
        parts = urlsplit(target)
        if parts.netloc:
            continue
        assert (ROOT / parts.path).exists(), f"{name} links to {target}"
        if parts.fragment and parts.path.startswith("docs/"):
            page = Page(site / Path(parts.path).with_suffix(".html").name)
            assert unquote(parts.fragment) in page.ids, f"{name} links to {target}"
