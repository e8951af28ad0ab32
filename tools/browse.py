"""The built site in a browser: `python -m tools.browse [--shots DIR] [PAGE...]`

Opens pages of `_docs` in Chromium; fails on a console error, a request to another host, a missing picture, or a search that finds nothing."""
import argparse
import contextlib
import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path

from tools.notebook import ROOT

PAGES = ['index.html', 'core.html', 'render.html']
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-background-networking', '--disable-component-update', '--disable-sync']
CHROMIUM = next((p for p in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if p), None)


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


def watch(page, home):
    "A list that fills with what goes wrong on `page`"
    wrong = []
    page.on('console', lambda m: wrong.append(f'console: {m.text}') if m.type == 'error' else None)
    page.on('pageerror', lambda e: wrong.append(f'error: {e}'))
    page.on('request', lambda r: None if r.url.startswith((home, 'data:')) else wrong.append(f'asks another host: {r.url}'))
    page.on('response', lambda r: wrong.append(f'{r.status}: {r.url}') if r.status >= 400 else None)
    page.on('requestfailed', lambda r: wrong.append(f'failed: {r.url}'))
    return wrong


def look(page, home, name, shots):
    "Open one page, wait until it is quiet, and check its pictures"
    page.goto(f'{home}/{name}', wait_until='networkidle')
    broken = page.eval_on_selector_all('img', 'els => els.filter(e => e.loading != "lazy" && !e.naturalWidth).map(e => e.src)')
    if shots: page.screenshot(path=Path(shots)/f'{name.replace("/", "-").removesuffix(".html")}.png')
    return [f'broken picture: {b}' for b in broken]


def search(page, word):
    "Type into the search box and see whether a result links to a page"
    page.fill('#quarto-search input', word)
    try: page.wait_for_selector('.smalldocs-search-results a', timeout=5000)
    except Exception: return [f'search finds nothing for {word!r}']
    return []


def check(site, pages, shots=None):
    "All that is wrong with the pages: {page: [...]}"
    from playwright.sync_api import sync_playwright
    found = {}
    with serve(site) as home, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name in pages:
            page = browser.new_page(viewport=dict(width=1400, height=1600))
            wrong = watch(page, home)
            here = look(page, home, name, shots) + search(page, 'seed')
            found[name] = wrong + here
            page.close()
        browser.close()
    return found


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('pages', nargs='*', default=PAGES, help='pages, relative to the site')
    p.add_argument('--shots', type=Path, help='folder for screenshots')
    a = p.parse_args(args)
    if not CHROMIUM: return 'no Chromium here: install it (on Debian: apt-get install chromium)'
    if a.shots: a.shots.mkdir(parents=True, exist_ok=True)
    found = check(ROOT/'_docs', a.pages, a.shots)
    for name, wrong in found.items(): print(name, 'is fine' if not wrong else '\n  '.join(['', *wrong]))
    return 1 if any(found.values()) else 0


if __name__ == '__main__': sys.exit(main())
