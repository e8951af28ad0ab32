"Notebooks as plain JSON: what all tools here share"
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'


def text(source):
    "A notebook keeps text as a string or as a list of lines: a string"
    return source if isinstance(source, str) else ''.join(source)


def read(path):
    "A notebook as a dict"
    return json.loads(Path(path).read_text(encoding='utf-8'))


def notebooks(folder=NBS):
    "All notebooks below `folder` that count: not scratch, not a checkpoint"
    return sorted(p for p in Path(folder).rglob('*.ipynb') if not any(q[0] in '._' for q in p.relative_to(folder).parts))


def options(source):
    "The `#|` lines of a cell: name -> value ('' for a bare flag)"
    found = re.findall(r'^#\|\s*([\w-]+)(?::|[ \t]|$)[ \t]*(.*?)[ \t]*$', text(source), flags=re.M)
    return {k: v[1:-1] if len(v) > 1 and v[0] == v[-1] and v[0] in '"\'' else v for k, v in found}


def body(source):
    "A cell without its `#|` lines"
    return '\n'.join(l for l in text(source).split('\n') if not l.startswith('#|')).strip()


def outside_code(markdown, change):
    "Apply `change` to the parts of a Markdown text that are not code"
    parts = re.split(r'(^```.*?^```|^~~~.*?^~~~|`(?!\]\()[^`\n]+`(?!\]))', markdown, flags=re.M | re.S)
    return ''.join(p if i % 2 else change(p) for i, p in enumerate(parts))
