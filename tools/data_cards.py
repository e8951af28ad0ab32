"data/README.md from the registry of data sets. `--check` only compares: python -m tools.data_cards [--check]"
import sys

from captcha_lab.core import cards_table
from captcha_lab.data import registry
from tools.notebook import ROOT

PAGE = ROOT/'data'/'README.md'
HEAD = """# Data sets

Made by `python -m tools.data_cards` from `data/registry.json`. Images of public data sets are not kept here; names, splits and corrected labels are. `captcha-lab data fetch` gets a set and checks it against its checksum.
"""


def where(source):
    "One place that a data set comes from"
    names = [f'<{source[k]}>' for k in ('page', 'url') if source[k]]
    count = f' ({source["count"]:,} images)' if source['count'] else ''
    return f'{names[0]}{count}' if names else f'`{source["name"]}`{count}, sha256 `{source["sha256"][:12]}…`'


def section(id, entry):
    "Title, text and table of one data set"
    shares = entry['split'] and ', '.join(f'{100*p:g} % {name}' for p, name in zip(entry['split']['parts'], ('train', 'valid', 'test')))
    rows = {'id': f'`{id}`', 'for': f'task `{entry["task"]}`', 'images': f'{entry["count"]:,}' if entry['count'] else 'as many as you ask for',
            'symbols': entry['alphabet'] and f'`{entry["alphabet"]}`', 'split': shares and f'{shares}; duplicates stay together',
            'licence': entry['licence'], 'from': '; '.join(map(where, entry['sources']))}
    table = cards_table([{'': k, 'what': v} for k, v in rows.items() if v])
    return f'## {entry["title"]}\n\n{entry["card"]}\n\n{table}\n'


def page(): return '\n'.join([HEAD] + [section(id, entry) for id, entry in registry().items()])


def main(args=()):
    "What is out of date, with `--check`; otherwise the page is written"
    if '--check' not in args: return PAGE.write_text(page(), encoding='utf-8') and None
    if not PAGE.exists() or PAGE.read_text(encoding='utf-8') != page(): return 'data/README.md is out of date: python -m tools.data_cards'


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
