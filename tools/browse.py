"""The built site in a browser, to look at: `python -m tools.browse [--shots DIR] [PAGE...]` keeps pictures of pages

Each in light and dark, as wide as a desk and as a phone. What must hold there is in `tests/browser`, which uses the same server."""
import argparse
import contextlib
import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path

from tools.notebook import ROOT

SITE = ROOT/'_docs'
PAGES = ['index.html', 'try.html', 'core.html', 'render.html']
SIZES = {'desk': (1400, 1000), 'phone': (390, 844)}  # width and height of a window, px
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-background-networking', '--disable-component-update', '--disable-sync']
CHROMIUM = next((p for p in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if p), None)
NO_CHROMIUM = 'no Chromium here (on Debian: apt-get install chromium)'


class Quiet(http.server.SimpleHTTPRequestHandler):
    "A file server that says nothing"
    def log_message(self, *args): pass


@contextlib.contextmanager
def serve(folder):
    "Serve a folder on a free local port; yields its address"
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f'http://127.0.0.1:{server.server_port}'
    finally: server.shutdown(); server.server_close()


@contextlib.contextmanager
def chromium():
    "A browser; needs Playwright, and Chromium on this machine"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try: yield browser
        finally: browser.close()


def window(browser, size='desk', scheme='light'):
    "A fresh window with nothing remembered from others"
    width, height = SIZES[size]
    opened = browser.new_context(viewport=dict(width=width, height=height), color_scheme=scheme)
    opened.set_default_timeout(90_000)  # ms; a busy machine takes its time
    return opened


def watch(page, home, wrong):
    "Add to `wrong` whatever goes wrong on `page`"
    page.on('console', lambda m: wrong.append(f'console: {m.text}') if m.type == 'error' else None)
    page.on('pageerror', lambda e: wrong.append(f'error: {e}'))
    page.on('request', lambda r: None if r.url.startswith((home, 'data:', 'blob:')) else wrong.append(f'asks another host: {r.url}'))
    page.on('response', lambda r: wrong.append(f'{r.status}: {r.url}') if r.status >= 400 else None)


def shoot(pages, folder):
    "Keep four pictures of each page"
    with serve(SITE) as home, chromium() as browser:
        for size, scheme in ((s, c) for s in SIZES for c in ('light', 'dark')):
            with contextlib.closing(window(browser, size, scheme)) as opened:
                page = opened.new_page()
                for name in pages:
                    page.goto(f'{home}/{name}', wait_until='networkidle')
                    page.screenshot(path=folder/f'{name.replace("/", "-").removesuffix(".html")}-{size}-{scheme}.png')


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('pages', nargs='*', default=PAGES, help='pages, relative to the site')
    p.add_argument('--shots', type=Path, default=Path('shots'), help='folder for the pictures')
    a = p.parse_args(args)
    if not CHROMIUM: return NO_CHROMIUM
    a.shots.mkdir(parents=True, exist_ok=True)
    shoot(a.pages, a.shots)


if __name__ == '__main__': sys.exit(main())
