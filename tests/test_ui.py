"""The local page: what it does, what it serves, what it refuses; in a real browser with -m browser."""

from __future__ import annotations

import json
import re
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.cli import main
from tag2mask.runs.checkpoints import save_model
from tag2mask.web import server
from tag2mask.web.actions import look, ranked_list, save
from tag2mask.web.server import POLICY, serving


@pytest.fixture
def picture(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "pictures" / "a cat.png"
    path.parent.mkdir()
    Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
    return path


def test_a_look_shows_the_mask_and_the_steps(segmenter, picture):
    seen = look(segmenter, picture, tags=["ball", "leaf"])
    assert set(np.unique(seen.prediction.mask)) <= {0, 1, 4}
    assert [caption for _, caption in seen.steps][:2] == ["CAM: ball", "CAM: leaf"]
    assert [caption for _, caption in seen.steps][2:4] == ["teacher: ball", "teacher: leaf"]
    assert "reliable labels" in seen.steps[-1][1]
    assert seen.scores.keys() == set(segmenter.classes)
    open_look = look(segmenter, picture, crf=True)
    np.testing.assert_array_equal(open_look.prediction.mask, segmenter.predict(picture, crf=True).mask)
    assert open_look.steps


def test_a_saved_mask_is_what_predict_gives(segmenter, picture, tmp_path):
    prediction = segmenter.predict(picture)
    files = save(tmp_path / "saved", "../..\\x/evil.png", prediction)
    assert files.mask.name == "evil.png"
    assert files.mask.resolve().is_relative_to(tmp_path / "saved")
    with Image.open(files.mask) as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), prediction.mask)
    coco = json.loads(files.coco.read_text(encoding="utf-8"))
    assert coco["images"][0]["file_name"] == "evil.png"
    assert save(tmp_path / "saved", "evil.png", prediction).mask != files.mask


def write_rank(folder, *names):
    folder.mkdir(exist_ok=True)
    rows = "".join(f"{i},{name},0.5,why\n" for i, name in enumerate(names, start=1))
    (folder / "rank.csv").write_text(f"rank,file,score,reason\n{rows}", encoding="utf-8")
    return folder


def test_the_ranked_list_stays_in_its_folder(picture, tmp_path):
    found = ranked_list(write_rank(tmp_path / "out", "a cat.png", "gone.png"), picture.parent)
    assert [each.path for each in found] == [picture.resolve()]
    assert found[0].title == "1. a cat.png (0.5): why"
    with pytest.raises(ValueError, match="leaves the picture folder"):
        ranked_list(write_rank(tmp_path / "out", "../secret.png"), picture.parent)
    (tmp_path / "secret.png").write_bytes(picture.read_bytes())
    (picture.parent / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(FileNotFoundError, match="None of the pictures"):
        ranked_list(write_rank(tmp_path / "out", "link.png"), picture.parent)
    (tmp_path / "out" / "rank.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match="needs the columns"):
        ranked_list(tmp_path / "out", picture.parent)
    with pytest.raises(FileNotFoundError, match="predict RUN PICTURES --rank"):
        ranked_list(tmp_path, picture.parent)


def test_misuse_is_said_before_anything_is_served(segmenter, tmp_path, monkeypatch, capsys):
    save_model(tmp_path / "m.safetensors", segmenter.model, segmenter.config)
    assert main(["ui", str(tmp_path / "m.safetensors"), "--ranked", str(tmp_path)]) == 1
    assert "belong together" in capsys.readouterr().err
    assert main(["ui", str(tmp_path / "none")]) == 1
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["ui", str(tmp_path / "m.safetensors")]) == 1
    assert 'pip install "tag2mask[ui]"' in capsys.readouterr().err


def get(address, path, host=None):
    request = urllib.request.Request(address + path, headers={} if host is None else {"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


@pytest.fixture
def address(segmenter, picture, tmp_path):
    pytest.importorskip("gradio")
    ranked = write_rank(tmp_path / "out", "a cat.png")
    with serving(segmenter, ranked=ranked, pictures=picture.parent) as address:
        yield address


def test_the_server_answers_this_machine_only_and_serves_nothing_else(address, picture, tmp_path):
    status, headers, body = get(address, "/")
    assert address.startswith("http://127.0.0.1:")
    assert status == 200
    headers = {key.lower(): value for key, value in headers.items()}
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"
    loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="([^"]+)"', body.decode())
    assert loaded
    assert not [place for place in loaded if re.match(r"(?:https?:)?//", place)], "everything is local"
    assert get(address, "/", host="evil.example")[0] == 400
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    inside = str(picture)
    for path in (str(secret), inside, "/etc/hostname", "../../etc/hostname", sys.executable):
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/"):
            status, _, body = get(address, f"{route}{path}".replace(" ", "%20"))
            assert status in (400, 403, 404, 405), f"{route}{path} gave {status}"
            assert b"the secret" not in body


def test_uploads_are_limited(address):
    import http.client

    host = address.removeprefix("http://")
    data = b"x" * (65 * 2**20)
    head = b'--B\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request(
            "POST",
            "/gradio_api/upload",
            head + data + b"\r\n--B--\r\n",
            {"Content-Type": "multipart/form-data; boundary=B"},
        )
        assert connection.getresponse().status in (400, 413)
    except (BrokenPipeError, ConnectionResetError):
        pass  # turned away before all of it was sent
    finally:
        connection.close()


def send(address, *names, headers=(), data=b"x", chunked=False):
    """Status and body of an upload of files of these names."""
    import http.client

    parts = [
        f'--B\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + data + b"\r\n"
        for name in names
    ]
    body = b"".join(parts) + b"--B--\r\n"
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    try:
        given = {"Content-Type": "multipart/form-data; boundary=B"} | dict(headers)
        connection.request(
            "POST", "/gradio_api/upload", iter([body]) if chunked else body, given, encode_chunked=chunked
        )
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_uploads_stay_in_their_folder_and_come_from_this_page_only(address, monkeypatch, tmp_path):
    status, body = send(address, "../../evil.png", "/etc/evil.png", "<b>é😀.png")
    assert status == 200, body
    places = [Path(place) for place in json.loads(body)]
    assert len(places) == 3
    for place in places:
        assert place.is_file()
        assert place.parent.parent.name == "uploads" and ".." not in place.parts
    assert not list(tmp_path.rglob("evil.png"))
    origin = {"Origin": address}
    assert send(address, "a.png", headers=origin)[0] == 200, "the page itself may send"
    for other in ("https://evil.example", "http://127.0.0.1:1", "null"):
        status, body = send(address, "a.png", headers={"Origin": other})
        assert status == 403, other
        assert b"another site" in body
    assert send(address, "a.png", chunked=True)[0] == 411
    monkeypatch.setattr(server, "MAX_KEPT_FILES", 2)
    status, body = send(address, "a.png", data=b"another")
    assert status == 413
    assert b"at most 2 files" in body
    monkeypatch.setattr(server, "MAX_KEPT_FILES", 2000)
    monkeypatch.setattr(server, "MAX_KEPT_MIB", 0)
    assert send(address, "a.png")[0] == 413


def test_nothing_but_loopback_listens(address):
    import socket

    port = int(address.rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port), timeout=10).close()
    with pytest.raises(OSError, match=r"refused|unreachable|assign"):
        socket.create_connection(("127.0.0.2", port), timeout=10)


def test_the_page_reads_only_what_was_dropped_and_limits_their_number(segmenter, picture, tmp_path):
    gradio = pytest.importorskip("gradio")
    from tag2mask.web.page import MAX_FILES, build_page

    (tmp_path / "uploads").mkdir()
    (tmp_path / "saved").mkdir()
    page = build_page(segmenter, "<script>alert(1)</script>", tmp_path / "saved", uploads=tmp_path / "uploads")
    handlers = {each.fn.__name__: each.fn for each in page.fns.values()}
    outside = tmp_path / "uploads" / "link.png"
    outside.symlink_to(picture)
    for path in (picture, outside, tmp_path / "uploads" / ".." / "pictures" / picture.name, "/etc/hostname"):
        with pytest.raises(gradio.Error, match="was not dropped here"):
            handlers["show"](str(path), False, [])
    assert not list((tmp_path / "saved").iterdir())
    dropped = tmp_path / "uploads" / "<b>&.png"
    dropped.write_bytes(picture.read_bytes())
    assert handlers["show"](str(dropped), False, [])[3]["value"].endswith("<b>&.png")
    dropped.write_bytes(b"no picture")
    with pytest.raises(gradio.Error) as refused:
        handlers["show"](str(dropped), False, [])
    assert "<b>" not in refused.value.message
    assert "&lt;b&gt;&amp;.png" in refused.value.message
    assert str(tmp_path) not in refused.value.message
    with pytest.raises(gradio.Error, match=f"at most {MAX_FILES}"):
        handlers["choose"]([f"{i}.png" for i in range(MAX_FILES + 1)])


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'chromium'}", "--window-size=1280,1000",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    behavior = {"behavior": "allow", "downloadPath": str(tmp_path / "downloads")}
    driver.execute_cdp_cmd("Page.setDownloadBehavior", behavior)
    yield driver
    driver.quit()


def wait(check, seconds=40):
    import time

    end = time.monotonic() + seconds
    while True:
        try:
            if value := check():
                return value
        except Exception:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, "the page did not come so far"
        time.sleep(0.1)


def requested(browser):
    found = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.add(message["params"]["request"]["url"])
        if message["method"] == "Network.webSocketCreated":
            found.add(message["params"]["url"])
    return found


@pytest.mark.browser
def test_the_page_in_a_browser(address, browser, segmenter, picture, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    other = tmp_path / "other.png"
    with Image.open(picture) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other)

    def one(selector):
        return browser.find_element(By.CSS_SELECTOR, selector)

    def click(element):
        browser.execute_script("arguments[0].click()", element)

    def shown():
        return one("#overlay img").get_attribute("src")

    def new_look(act):
        """Do something and wait until the page shows another mask for it."""
        before = shown()
        act()
        wait(lambda: shown() != before)

    def downloaded(button, name):
        folder = tmp_path / "downloads"
        for earlier in folder.glob(name):
            earlier.unlink()
        click(one(button))
        return wait(lambda: list(folder.glob(name)))[0]

    def saved_mask(stem):
        with Image.open(downloaded("#save-mask", f"{stem}*.png")) as mask:
            return np.asarray(mask)

    browser.get(address)
    wait(lambda: one("#files input[type=file]"))
    for button in ("#save-mask", "#save-coco", "#save-overlay"):
        wait(lambda selector=button: one(selector))  # the page draws its parts one after the other
        assert one(button).get_attribute("disabled"), "nothing to save yet"
    one("#files input[type=file]").send_keys(f"{picture}\n{other}")
    wait(shown)
    wait(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#steps img")) >= 2)
    assert all(name in one("#scores").text for name in segmenter.classes)
    np.testing.assert_array_equal(saved_mask("a cat"), segmenter.predict(picture).mask)
    coco = json.loads(downloaded("#save-coco", "*.json").read_text(encoding="utf-8"))
    assert coco["images"][0]["file_name"] == "a cat.png"
    with Image.open(downloaded("#save-overlay", "*.jpg")) as overlay:
        assert overlay.width >= 64
        assert overlay.height > 48, "with its legend"
    assert not browser.find_elements(By.CSS_SELECTOR, "[aria-label*='common.'], [title*='common.']"), "words, not keys"
    browser.save_screenshot(str(tmp_path / "page.png"))

    first, second = browser.find_elements(By.CSS_SELECTOR, "#picture-choice input")
    new_look(lambda: click(second))
    np.testing.assert_array_equal(saved_mask("other"), segmenter.predict(other).mask)
    new_look(lambda: click(first))

    leaf = browser.find_elements(By.CSS_SELECTOR, "#tags input")[segmenter.classes.index("leaf")]
    new_look(lambda: click(leaf))
    np.testing.assert_array_equal(saved_mask("a cat"), segmenter.predict(picture, tags=["leaf"]).mask)
    assert "CAM: leaf" in one("#steps").text
    new_look(lambda: click(leaf))

    browser.execute_script("arguments[0].focus()", one("#crf input"))
    new_look(lambda: browser.switch_to.active_element.send_keys(Keys.SPACE))
    np.testing.assert_array_equal(saved_mask("a cat"), segmenter.predict(picture, crf=True).mask)

    click(one("#steps button.thumbnail-item"))
    wait(lambda: one("#steps .preview"))
    click(one("#steps .preview button[aria-label=Close], #steps .preview button[title=Close]"))
    wait(lambda: not browser.find_elements(By.CSS_SELECTOR, "#steps .preview"))

    reached, controls = set(), {
        "files", "picture-choice", "ranked-choice", "crf", "tags", "save-mask", "save-coco", "save-overlay", "steps",
    }  # fmt: skip
    browser.execute_script("document.activeElement.blur()")
    for _ in range(60):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        element = browser.switch_to.active_element
        script = "return arguments[1].filter(name => arguments[0].closest('#' + name) !== null)"
        reached.update(browser.execute_script(script, element, sorted(controls)))
    assert reached == controls, "all by the keyboard"

    new_look(lambda: click(browser.find_elements(By.CSS_SELECTOR, "#picture-choice input")[1]))
    choice = one("#ranked-choice input")
    choice.click()
    new_look(lambda: choice.send_keys(Keys.ARROW_DOWN, Keys.ENTER))
    assert not browser.find_elements(By.CSS_SELECTOR, "#picture-choice input:checked"), "one list at a time"
    np.testing.assert_array_equal(saved_mask("a cat"), segmenter.predict(picture, crf=True).mask)
    new_look(lambda: click(browser.find_elements(By.CSS_SELECTOR, "#picture-choice input")[1]))
    assert not one("#ranked-choice input").get_attribute("value")

    browser.set_window_size(390, 844)
    width, page = browser.execute_script("return [window.innerWidth, document.documentElement.scrollWidth]")
    assert page <= width, "nothing sticks out on a telephone"
    if width <= 640:  # not every browser makes windows this narrow
        assert one("#overlay").rect["y"] < one("#scores").rect["y"], "the mask comes first there"
    browser.save_screenshot(str(tmp_path / "phone.png"))

    click(one("#files button[aria-label*=Clear i], #files button[title*=Clear i]"))
    wait(lambda: not browser.find_elements(By.CSS_SELECTOR, "#overlay img"))
    assert one("#save-mask").get_attribute("disabled")
    away = {
        url for url in requested(browser) if not re.match(r"(?:https?|ws)://127\.0\.0\.1[:/]|data:|blob:|chrome", url)
    }
    assert not away, "no request leaves this machine"


@pytest.mark.browser
def test_a_file_that_is_no_picture_and_the_ranked_list(address, browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    bad = tmp_path / "<img src=x onerror=alert(1)>.png"
    bad.write_bytes(b"no picture")
    browser.get(address)
    wait(lambda: browser.find_element(By.CSS_SELECTOR, "#files input[type=file]")).send_keys(str(bad))
    message = wait(
        lambda: browser.find_element(By.CSS_SELECTOR, ".toast-body, .toast-wrap, [data-testid=toast-body]").text
    )
    assert "cannot be read as a picture" in message
    assert not browser.find_elements(By.CSS_SELECTOR, "img[src=x]"), "names are text, not HTML"
    choice = browser.find_element(By.CSS_SELECTOR, "#ranked-choice input")
    choice.click()
    choice.send_keys(Keys.ARROW_DOWN, Keys.ENTER)
    assert wait(lambda: browser.find_element(By.CSS_SELECTOR, "#overlay img").get_attribute("src"))
