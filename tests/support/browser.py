"""A headless Chromium that tells what went wrong while it showed a page.

Debian's packages `chromium` and `chromium-driver`: both programs are given to Selenium by name,
which looks for none then, and downloads none.
"""

import json
import os
import shutil
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

WIDE, PHONE = (1400, 1000), (390, 844)
PATIENCE = 30  # seconds after which a page that shows nothing is given up

# Whatever waits to be seen is loaded now; then the browser's own decoder says which show nothing.
_PICTURES = """
const done = arguments[0];
const pictures = [...document.images];
pictures.forEach(picture => picture.loading = "eager");
Promise.all(pictures.map(picture => picture.decode().then(() => picture.naturalWidth, () => 0)))
    .then(widths => done([widths.length, pictures.filter((_, i) => !widths[i]).map(p => p.src)]));
"""
_STYLED = """
const sheets = [...document.styleSheets];
return sheets.length > 0 && sheets.every(sheet => sheet.cssRules.length > 0)
    && getComputedStyle(document.body).margin === "0px";
"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing of requests that went well, nor of others: the browser does."""


@contextmanager
def served(folder):
    """A folder's address, on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _program(*names):
    found = next(filter(None, map(shutil.which, names)), None)
    assert found, f"{names[0]} is missing: apt-get install chromium chromium-driver"
    return found


def _driver():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = _program("chromium", "google-chrome")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    arguments = [
        "--headless=new",
        f"--window-size={WIDE[0]},{WIDE[1]}",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",  # containers have 64 MB of it
        "--no-proxy-server",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing else is reached
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")  # which root cannot have
    for argument in arguments:
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=_program("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


class Browser:
    """Shows pages of one server, a window at a time."""

    def __init__(self, address, pictures):
        self.address, self.pictures, self.driver = address, pictures, _driver()
        self.driver.set_page_load_timeout(PATIENCE)
        self.driver.set_script_timeout(PATIENCE)

    def close(self):
        """End the program."""
        self.driver.quit()

    def open(self, path):
        """Load a page anew, even where only its fragment differs from that of the last one."""
        self.driver.get("about:blank")
        self.faults()
        self.driver.get(f"{self.address}/{path}")

    def wait(self, selector):
        """The first element of this kind that is shown."""
        from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
        from selenium.webdriver.support.wait import WebDriverWait

        def shown(driver):
            found = driver.find_elements("css selector", selector)
            return next((element for element in found if element.is_displayed()), None)

        redrawn = [StaleElementReferenceException]  # between finding an element and asking it
        wait = WebDriverWait(self.driver, PATIENCE, ignored_exceptions=redrawn)
        try:
            return wait.until(shown)
        except TimeoutException:
            raise AssertionError(f"no {selector} is shown: {self.faults()}") from None

    def text(self):
        """What a reader reads."""
        return self.driver.find_element("css selector", "body").text

    def is_styled(self):
        """Whether every stylesheet has rules, and the page follows them."""
        return self.driver.execute_script(_STYLED)

    def images(self):
        """How many there are, and the addresses of those that show nothing."""
        return self.driver.execute_async_script(_PICTURES)

    def faults(self):
        """Since the last call: errors in the console, requests that failed or left this server."""
        found = [
            f"console: {entry['message']}"
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE"
        ]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            found += self._of_network(message["method"], message["params"])
        return found

    def _of_network(self, method, event):
        if method == "Network.requestWillBeSent":
            url = event["request"]["url"]
            is_ours = url.startswith(f"{self.address}/")
            if not is_ours and urlsplit(url).scheme not in {"data", "blob", "about"}:
                yield f"a request to elsewhere: {url}"
        elif method == "Network.responseReceived" and event["response"]["status"] >= 400:
            yield f"{event['response']['status']}: {event['response']['url']}"
        elif method == "Network.loadingFailed" and not event.get("canceled"):
            yield f"a request failed: {event['errorText']}"

    @contextmanager
    def looking(self, size, *, mobile=False, scheme="light"):
        """Another size of the screen, and colours that the system asks for."""
        width, height = size
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        colours = [{"name": "prefers-color-scheme", "value": scheme}]
        tell = self.driver.execute_cdp_cmd
        tell("Emulation.setDeviceMetricsOverride", screen)
        tell("Emulation.setEmulatedMedia", {"features": colours})
        try:
            yield
        finally:
            tell("Emulation.clearDeviceMetricsOverride", {})
            tell("Emulation.setEmulatedMedia", {"features": []})

    def picture(self, name):
        """Keep what the window shows; its pixels in grey, 0 to 255."""
        import numpy as np
        from PIL import Image

        path = self.pictures / f"{name}.png"
        assert self.driver.save_screenshot(str(path))
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
