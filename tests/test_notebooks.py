"Habits of our notebooks (CONTRIBUTING.md explains them), as checks"
import ast
import base64
import io
import re
import tokenize

import pytest

from tools.notebook import NBS, body, notebooks, options, read, text

names = lambda paths: [pytest.param(p, id=p.relative_to(NBS).as_posix()) for p in paths]
LIBRARY = names(sorted(NBS.glob('[0-9]*.ipynb')))
LESSONS = names(sorted(NBS.glob('lessons/*.ipynb')))
ALL = names(notebooks())
DEFS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
FUNCS = DEFS[:2]


def code(nb): return [c for c in nb['cells'] if c['cell_type'] == 'code']
def exported(c): return c['cell_type'] == 'code' and {'export', 'exports', 'exporti'} & options(c['source']).keys()
def run(c): return c['cell_type'] == 'code' and not exported(c) and options(c['source']).get('eval') != 'false' and 'default_exp' not in options(c['source'])


def tree(c):
    "Syntax tree of a code cell, magics left out"
    return ast.parse('\n'.join('' if l.lstrip().startswith(('%', '!')) else l for l in text(c['source']).split('\n')))


def command(n):
    "Is this a command of the command line? Its parameters are told by `help=`, and it is tested by running it"
    return any('.command' in ast.unparse(d) for d in n.decorator_list)


def public(c):
    "Public definitions of an export cell; one-line ones (a family of exceptions) count as one, commands not at all"
    found = [n for n in tree(c).body if isinstance(n, DEFS) and not n.name.startswith('_') and not command(n)]
    short = [n for n in found if n.end_lineno == n.lineno]
    return [n for n in found if n not in short[1:]]


def imports_only(c): return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree(c).body)
def headings(nb): return [h for c in nb['cells'] if c['cell_type'] == 'markdown' for h in re.findall(r'^#+ +(.+)$', text(c['source']), flags=re.M)]


# ---- library notebooks

@pytest.mark.parametrize('path', LIBRARY)
def test_opening_and_end(path):
    c = read(path)['cells']
    assert re.fullmatch(r'#\|\s*default_exp \w+', text(c[0]['source']).strip())
    assert re.fullmatch(r'# .+\n\n?> .+', text(c[1]['source']).strip()), 'a title and a one-line purpose'
    assert c[2]['cell_type'] == 'markdown' and '`' in text(c[2]['source']) and '\n\n' not in text(c[2]['source']).strip(), 'one paragraph that names the main symbols'
    assert exported(c[3]) and imports_only(c[3]), 'exported imports'
    assert 'hide' in options(c[4]['source']) and imports_only(c[4]), 'hidden imports for the tests'
    assert {'hide', 'eval'} <= options(c[-1]['source']).keys() and 'nbdev_export()' in text(c[-1]['source'])


@pytest.mark.parametrize('path', LIBRARY)
def test_one_default_exp(path):
    assert sum('default_exp' in options(c['source']) for c in code(read(path))) == 1


@pytest.mark.parametrize('path', LIBRARY)
def test_one_public_definition_a_cell(path):
    assert [[n.name for n in public(c)] for c in code(read(path)) if exported(c) and len(public(c)) > 1] == []


@pytest.mark.parametrize('path', LIBRARY)
def test_functions_are_short(path):
    funcs = [n for c in code(read(path)) if exported(c) for n in ast.walk(tree(c)) if isinstance(n, FUNCS)]
    assert [(f.name, f.end_lineno - f.lineno + 1) for f in funcs if f.end_lineno - f.lineno >= 40] == []


@pytest.mark.parametrize('path', LIBRARY)
def test_shown_at_once(path):
    "At least nine of ten public definitions (or all but one) are followed by a cell that runs, before anything else is exported"
    cells, late, n = read(path)['cells'], [], 0
    for i, c in enumerate(cells):
        if not (exported(c) and public(c)): continue
        n += 1
        after = next((d for d in cells[i+1:] if run(d) or exported(d)), None)
        if after is None or exported(after): late.append(public(c)[0].name)
    assert len(late) <= max(1, n/10), late


@pytest.mark.parametrize('path', LIBRARY)
def test_two_assertions_a_definition(path):
    "Two a public definition on average, and no definition that no test names"
    cells = code(read(path))
    tests = [t for c in cells if run(c) for t in [tree(c)]]
    nodes = [n for t in tests for n in ast.walk(t)]
    calls = [getattr(n.func, 'id', getattr(n.func, 'attr', '')) for n in nodes if isinstance(n, ast.Call)]
    n = sum(isinstance(o, ast.Assert) for o in nodes) + sum(f.startswith('test_') or f in ('expect_fail', 'raises') for f in calls)
    defs = [d.name for c in cells if exported(c) for d in public(c)]
    named = {getattr(o, 'id', getattr(o, 'attr', '')) for o in nodes if isinstance(o, (ast.Name, ast.Attribute))}
    assert [d for d in defs if d not in named] == []
    assert n >= 2*len(defs), f'{n} assertions for {len(defs)} public definitions'


def commented(source):
    "Numbers of the lines that have a comment, or follow a line that is only one"
    toks = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT]
    return {t.start[0] for t in toks} | {t.start[0] + 1 for t in toks if t.line.lstrip().startswith('#')}


def functions(node, inside='', inherits=False):
    "Public functions, and `__init__` and public methods of public classes: (name, node). What overrides a method is told by the class it comes from"
    for f in node.body:
        if isinstance(f, ast.ClassDef) and not f.name.startswith('_'): yield from functions(f, f'{f.name}.', inherits=bool(f.bases))
        if isinstance(f, FUNCS) and not command(f) and (f.name == '__init__' or not (inherits or f.name.startswith('_'))): yield inside + f.name, f


@pytest.mark.parametrize('path', LIBRARY)
def test_docments(path):
    "A comment on every parameter and on what comes back; a docstring of one line"
    bad = []
    for c in code(read(path)):
        if not exported(c): continue
        lines = commented(text(c['source']))
        for name, f in functions(tree(c)):
            a = f.args
            params = [p for p in [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg] if p and p.arg not in ('self', 'cls')]
            bad += [f'{name}({p.arg})' for p in params if p.end_lineno not in lines and p.lineno not in lines]
            if f.returns is not None and getattr(f.returns, 'value', 0) is not None and f.returns.end_lineno not in lines: bad.append(f'{name} -> ?')
            doc = ast.get_docstring(f)
            if (not doc or '\n' in doc) and not name.endswith('__init__'): bad.append(f'{name}: docstring')
    assert bad == [], " ".join(bad)


@pytest.mark.parametrize('path', LIBRARY)
def test_small(path):
    nb = read(path)
    assert len(nb['cells']) <= 100
    assert path.stat().st_size <= 100_000
    assert sum(k.startswith('image/') for c in code(nb) for o in c['outputs'] for k in o.get('data', {})) <= 3


@pytest.mark.parametrize('path', LIBRARY)
def test_headings_stand_alone(path):
    md = [text(c['source']).strip() for c in read(path)['cells'][3:] if c['cell_type'] == 'markdown']
    assert [m[:60] for m in md if m.startswith('#') and '\n' in m] == []


@pytest.mark.parametrize('path', LIBRARY)
def test_import_cells_hold_imports_only(path):
    mixed = [c for c in code(read(path)) if any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree(c).body) and not imports_only(c)]
    assert [body(c['source'])[:80] for c in mixed if 'nbdev_export()' not in text(c['source'])] == []


@pytest.mark.parametrize('path', LIBRARY)
def test_no_print(path):
    "A cell ends with its value; library code is silent"
    calls = [n.func for c in code(read(path)) for n in ast.walk(tree(c)) if isinstance(n, ast.Call)]
    said = [f.id for f in calls if isinstance(f, ast.Name) and f.id == 'print'] + [f.attr for f in calls if isinstance(f, ast.Attribute) and f.attr == 'show' and getattr(f.value, 'id', '') == 'plt']
    assert said == [] or path.stem.endswith('_cli')


# ---- lessons

@pytest.mark.parametrize('path', [p for p in ALL if p.values[0].parent != NBS])
def test_lessons_never_export(path):
    found = [k for c in code(read(path)) for k in options(c['source']) if k in ('default_exp', 'export', 'exports', 'exporti')]
    assert found == []


@pytest.mark.parametrize('path', [p for p in ALL if p.values[0].parent != NBS])
def test_lessons_use_the_public_library(path):
    nodes = [n for c in code(read(path)) for n in ast.walk(tree(c)) if isinstance(n, ast.ImportFrom) and (n.module or '').startswith('captcha_lab')]
    assert [a.name for n in nodes for a in n.names if a.name[0] in '_*'] == []


@pytest.mark.parametrize('path', LESSONS)
def test_lesson_arc(path):
    nb = read(path)
    heads = [h.lower() for h in headings(nb)]
    last = [next((i for i, h in enumerate(heads) if h.startswith(k)), -1) for k in ('conclusion', 'questionnaire', 'exercises', 'further research')]
    assert -1 not in last and last == sorted(last), 'conclusion, questionnaire, exercises, further research, in this order'
    assert any(body(c['source']).startswith('roadmap(') for c in code(nb)[:4]), 'the way, with this lesson marked'
    assert 'common errors' in heads
    assert any('you will' in text(c['source']).lower() for c in nb['cells'][:8]), 'a list of what "you will" do'
    assert any(c.get('outputs') for c in nb['cells'][:12] if c['cell_type'] == 'code'), 'a result within the first dozen cells'
    assert (path.parent/'solutions'/path.name).exists(), 'solutions of the same name'


def works(cell):
    "Neither imports alone nor the roadmap"
    return not body(cell['source']).startswith('roadmap(') and any(not isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree(cell).body)


@pytest.mark.parametrize('path', LESSONS)
def test_lesson_shape(path):
    nb = read(path)
    md = [c for c in nb['cells'] if c['cell_type'] == 'markdown']
    words = sum(len(text(c['source']).split()) for c in md)
    assert 25 <= len(nb['cells']) <= 60
    assert len(md) >= sum(works(c) for c in code(nb)), 'a text for each piece of work'
    assert 900 <= words <= 1800, f'{words} words'
    assert [body(c['source'])[:60] for c in code(nb) if body(c['source']).count('\n') >= 10 and 'hide' not in options(c['source'])] == []


@pytest.mark.parametrize('path', LESSONS)
def test_lesson_questions(path):
    page = '\n'.join(text(c['source']) for c in read(path)['cells'] if c['cell_type'] == 'markdown')
    asked = re.split(r'^#+ +questionnaire.*$', page, flags=re.M | re.I)[-1]
    asked = re.split(r'^#+ ', asked, flags=re.M)[0]
    assert 8 <= len(re.findall(r'^\d+[.)] ', asked, flags=re.M)) <= 15


# ---- all notebooks

PATHS = re.compile(r'(?<![\w.:/])/(?:home|root|tmp|work|Users|var|usr|opt|private|content)/\w')


@pytest.mark.parametrize('path', ALL)
def test_outputs_are_tidy(path):
    outs = [o for c in code(read(path)) for o in c['outputs']]
    shown = [text(o.get('text', '')) + ''.join(text(v) for k, v in o.get('data', {}).items() if k.startswith('text/')) for o in outs]
    assert [o for o in outs if o.get('name') == 'stderr' or o['output_type'] == 'error'] == []
    assert [s[:80] for s in shown if '\r' in s or '\u2588' in s or 'fastprogress' in s.lower() or '<progress' in s] == []
    assert [s for s in shown if PATHS.search(s)] == []
    assert [s for s in shown if re.search(r' at 0x[0-9a-f]{6,}', s)] == []


@pytest.mark.parametrize('path', ALL)
def test_no_absolute_paths(path):
    assert [m for c in read(path)['cells'] for m in PATHS.findall(text(c['source']))] == []


@pytest.mark.parametrize('path', ALL)
def test_clean(path):
    "No counts, no widgets, no attachments, no metadata beside the kernel"
    nb = read(path)
    assert [c['execution_count'] for c in code(nb) if c['execution_count'] is not None] == []
    assert [c for c in nb['cells'] if c.get('attachments')] == []
    assert set(nb['metadata']) <= {'kernelspec'}
    assert nb['metadata'].get('kernelspec', {}).get('name') == 'python3'


@pytest.mark.parametrize('path', ALL)
def test_lines_and_weight(path):
    nb = read(path)
    pics = [v for c in code(nb) for o in c['outputs'] for k, v in o.get('data', {}).items() if k in ('image/png', 'image/jpeg')]
    assert path.stat().st_size <= 300_000
    assert [n for n in (len(base64.b64decode(text(p))) for p in pics) if n > 40_000] == []
    assert [l[:60] for c in code(nb) for l in text(c['source']).split('\n') if len(l) > 140] == []
