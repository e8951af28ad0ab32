"An ordinary wheel, installed into an environment of its own and used outside the checkout"
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools.notebook import ROOT

pytestmark = pytest.mark.wheel
LEFT_OUT = shutil.ignore_patterns('.git', 'build', 'dist', '_docs', '_proc', '_site_src', '__pycache__', '*.egg-info', 'runs', '.ci', '.venv', '.pytest_cache', '.hypothesis')
HAS_CLI = (ROOT/'captcha_lab'/'cli.py').exists()
needs_cli = pytest.mark.skipif(not HAS_CLI, reason='no command line yet')


def sh(*args, cwd, code=0, **env):
    "Run a command that must end with `code`; returns what it printed"
    clean = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'CAPTCHA_LAB_MIRROR', 'PYTHONHOME')}
    out = subprocess.run([str(a) for a in args], cwd=cwd, env=clean | {'OMP_NUM_THREADS': '2'} | env, capture_output=True, text=True)
    assert out.returncode == code, f'{args}: {out.stdout[-2000:]}\n{out.stderr[-3000:]}'
    return out.stdout


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    "A copy of the checkout, so that a build leaves nothing behind in ours"
    to = tmp_path_factory.mktemp('src')/'captcha_lab'
    shutil.copytree(ROOT, to, ignore=LEFT_OUT)
    return to


def pip_wheel(source, out):
    "The wheel that `pip wheel .` makes"
    sh(sys.executable, '-m', 'pip', 'wheel', '.', '--no-deps', '--no-build-isolation', '-q', '-w', out, cwd=source)
    return next(Path(out).glob('*.whl'))


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory): return pip_wheel(source, tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='module')
def env(wheel, tmp_path_factory):
    "The `bin` folder of an environment with the wheel; everything else it borrows from this one"
    where = tmp_path_factory.mktemp('env')/'venv'
    sh(sys.executable, '-m', 'venv', '--without-pip', where, cwd=where.parent)
    bins = where/('Scripts' if os.name == 'nt' else 'bin')
    site = Path(sh(bins/'python', '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))', cwd=where).strip())
    sh(sys.executable, '-m', 'pip', '--python', bins/'python', 'install', '-q', '--no-deps', '--no-index', wheel, cwd=where.parent)
    (site/'borrowed.pth').write_text('\n'.join({sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}) + '\n')
    return bins


def test_wheel_holds_library_and_data(wheel, source):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f'captcha_lab/{p.name}' for p in (source/'captcha_lab').glob('*.py')} <= names
    for part in ('splits', 'labels', 'models', 'results', 'samples'):
        here = {f'captcha_lab/_share/{p.relative_to(source/"data").as_posix()}' for p in (source/'data'/part).rglob('*') if p.is_file() and p.name[0] != '.'}
        assert here <= names
    assert 'captcha_lab/_share/registry.json' in names
    assert [n for n in names if n.split('/')[0] not in ('captcha_lab',) and '.dist-info/' not in n] == []


def test_wheel_says_what_settings_say(wheel):
    z = zipfile.ZipFile(wheel)
    read = lambda end: next(z.read(n).decode() for n in z.namelist() if n.endswith(end))
    meta = read('METADATA')
    assert 'Name: captcha_lab' in meta and 'Requires-Python: >=3.10' in meta and 'Requires-Dist: fastai<3,>=2.8.6' in meta
    assert {'onnx', 'dev', 'docs'} <= {l.split(': ')[1] for l in meta.splitlines() if l.startswith('Provides-Extra')}
    assert 'captcha-lab = captcha_lab.cli:main' in read('entry_points.txt')


def test_old_builds_leave_no_trace(source, tmp_path):
    "A module that is gone from the source does not come back from an earlier build"
    stale = source/'build'/'lib'/'captcha_lab'/'stale.py'
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.touch()
    assert 'captcha_lab/stale.py' not in zipfile.ZipFile(pip_wheel(source, tmp_path)).namelist()


def test_sdist_builds_the_same_wheel(source, wheel, tmp_path):
    sh(sys.executable, '-c', f'from setuptools import build_meta as b; b.build_sdist({str(tmp_path)!r})', cwd=source)
    with tarfile.open(next(tmp_path.glob('*.tar.gz'))) as t: t.extractall(tmp_path/'x', **({'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}))
    again = pip_wheel(next((tmp_path/'x').iterdir()), tmp_path/'w')
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_installed_library_finds_its_data(env, tmp_path):
    code = 'import captcha_lab.core as c; print(c.__file__); print(*(c.share_path(p).exists() for p in ("registry.json", "splits")))'
    file, found = sh(env/'python', '-c', code, cwd=tmp_path).splitlines()
    assert Path(file).is_relative_to(env.parent) and found == 'True True'


@needs_cli
def test_help(env, tmp_path): assert 'quickstart' in sh(env/'captcha-lab', '--help', cwd=tmp_path)


@needs_cli
def test_quickstart(env, tmp_path):
    sh(env/'captcha-lab', 'quickstart', '--out', 'first', '--n-train', 200, '--n-test', 50, '--epochs', 2, cwd=tmp_path)
    assert list((tmp_path/'first').rglob('*.safetensors')) and list((tmp_path/'first').rglob('*.json'))


@needs_cli
@pytest.mark.skipif(not list((ROOT/'data'/'samples').rglob('*.png')) or not list((ROOT/'data'/'models').glob('ctc_*.safetensors')), reason='no sample or no model yet')
def test_read_with_a_shipped_model(env, tmp_path):
    image = shutil.copy(min((ROOT/'data'/'samples').rglob('*.png')), tmp_path)
    row = json.loads(sh(env/'captcha-lab', 'read', image, '--json', cwd=tmp_path))
    assert row.keys() == {'file', 'text', 'confidence'} and 0 <= row['confidence'] <= 1
