"Practice copies of the lessons, without prose and outputs: `python -m tools.blank [--out practice]`"
import argparse
import json
from pathlib import Path

from tools.notebook import NBS, read, text

KEEP_FROM = ('questionnaire', 'exercises', 'further research')


def headings(source):
    "The headings in a Markdown cell"
    return '\n\n'.join(l for l in text(source).split('\n') if l.startswith('#'))


def blank(nb):
    "`nb` with headings and code only; questions and exercises, which are there to be worked on, stay whole"
    cells, whole = [], False
    for c in nb['cells']:
        heads = headings(c['source']) if c['cell_type'] == 'markdown' else ''
        if heads: whole = heads.split('\n')[-1].lstrip('# ').lower().startswith(KEEP_FROM)
        if c['cell_type'] == 'code': cells.append({**c, 'outputs': [], 'execution_count': None})
        elif whole or heads: cells.append(c if whole else {**c, 'source': heads})
    return {**nb, 'cells': cells}


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--lessons', type=Path, default=NBS/'lessons')
    p.add_argument('--out', type=Path, default=Path('practice'))
    a = p.parse_args(args)
    a.out.mkdir(parents=True, exist_ok=True)
    lessons = sorted(a.lessons.glob('*.ipynb'))
    for f in lessons: (a.out/f.name).write_text(json.dumps(blank(read(f)), indent=1) + '\n', encoding='utf-8')
    print(f'{len(lessons)} lessons in {a.out}')


if __name__ == '__main__': main()
