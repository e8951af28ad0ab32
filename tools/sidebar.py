"nbs/sidebar.yml from the notebooks that are there: `python -m tools.sidebar`"
import re
from pathlib import Path

import yaml

from tools.notebook import NBS, notebooks, read, text


def title(nb):
    "The `# Title` of a notebook"
    found = (re.match(r'#\s+(.+)', text(c['source'])) for c in nb['cells'] if c['cell_type'] == 'markdown')
    return next((m[1].strip() for m in found if m), '')


def module(nb):
    "What a library notebook exports to, or nothing"
    found = (re.search(r'^#\|\s*default_exp\s+(\S+)', text(c['source']), flags=re.M) for c in nb['cells'])
    return next((m[1] for m in found if m), '')


ABOUT = {'glossary.qmd': 'Glossary', 'teachers.qmd': 'For teachers', 'data_cards.qmd': 'Data cards', 'model_cards.qmd': 'Model cards', 'contributing.qmd': 'Contributing', 'about.qmd': 'About'}


def contents(folder=NBS):
    "The sidebar's entries: front page, a page to try, lessons, their solutions, modules, and what there is to know about it all"
    nbs = {p.relative_to(folder): read(p) for p in notebooks(folder)}
    entry = lambda p, label: {'text': label, 'href': p.as_posix()}
    inside = lambda where: [entry(p, f'{p.stem.split("_")[0].lstrip("0") or 0}. {title(nb)}') for p, nb in nbs.items() if p.parent.as_posix() == where]
    sections = {'Lessons': inside('lessons'), 'Solutions': inside('lessons/solutions'),
                'Library': [entry(p, module(nb)) for p, nb in nbs.items() if module(nb)],
                'About': [entry(Path(f), label) for f, label in ABOUT.items() if (folder/f).exists()]}
    first = [entry(Path(f), label) for f, label in {'index.ipynb': 'Start here', 'try.qmd': 'Read one in your browser'}.items() if (folder/f).exists()]
    return [*first, *({'section': k, 'contents': v} for k, v in sections.items() if v)]


def render(folder=NBS):
    "The text of sidebar.yml"
    return '# Made by `python -m tools.sidebar`\n' + yaml.safe_dump({'website': {'sidebar': {'contents': contents(folder)}}}, sort_keys=False)


if __name__ == '__main__': (NBS/'sidebar.yml').write_text(render(), encoding='utf-8')
