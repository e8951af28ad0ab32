"The doctor finds what is broken, and is not broken by it"
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from captcha_lab import cli, doctor
from captcha_lab.doctor import check_machine, check_packages, diagnose, probe

ROOT = Path(__file__).resolve().parent.parent


def install(folder, name, version='1.0', requires=(), code=None):
    "Make a package seem to be installed in `folder`"
    info = folder/f'{name.replace("-", "_")}-{version}.dist-info'
    info.mkdir(parents=True)
    lines = ['Metadata-Version: 2.1', f'Name: {name}', f'Version: {version}', *(f'Requires-Dist: {r}' for r in requires)]
    (info/'METADATA').write_text('\n'.join(lines) + '\n')
    if code is not None: (folder/f'{name}.py').write_text(code)
    return folder


def found(folder): return {r['check']: r for r in check_packages([str(folder)])}


@pytest.mark.parametrize('torch, vision, state', [
    ('2.9.0+cpu', '0.24.0+cpu', 'ok'), ('2.9.0+cu128', '0.24.0+cu128', 'ok'), ('2.9.0+cpu', '0.24.0+cu128', 'bad'), ('2.9.0+cu128', '0.24.0+cpu', 'bad'), ('2.9.0', '0.24.0', 'ok')])
def test_torch_and_torchvision(tmp_path, torch, vision, state):
    install(tmp_path, 'torch', torch)
    install(tmp_path, 'torchvision', vision)
    row = found(tmp_path)['torch pair']
    assert row['state'] == state and torch in row['found'] and vision in row['found']
    assert state == 'ok' or 'one index' in row['fix']


def test_a_plain_version_is_that_of_the_public_index(tmp_path, monkeypatch):
    install(install(tmp_path, 'torch', '2.9.0+cpu'), 'torchvision', '0.24.0')
    for platform, state in (('linux', 'bad'), ('darwin', 'ok')):
        monkeypatch.setattr(sys, 'platform', platform)
        assert found(tmp_path)['torch pair']['state'] == state


def test_torchvision_for_another_torch(tmp_path):
    pytest.importorskip('packaging')
    install(install(tmp_path, 'torch', '2.9.0'), 'torchvision', '0.20.0', ['torch==2.5.0'])
    row = found(tmp_path)['torch pair']
    assert row['state'] == 'bad' and 'torch 2.9.0 is not ==2.5.0' in row['found']


def test_opencv(tmp_path):
    assert found(tmp_path)['opencv']['state'] == 'bad'
    install(tmp_path, 'opencv-python-headless')
    assert found(tmp_path)['opencv']['state'] == 'ok'
    install(tmp_path, 'opencv-contrib-python')
    row = found(tmp_path)['opencv']
    assert row['state'] == 'bad' and 'uninstall -y opencv-contrib-python opencv-python-headless &&' in row['fix']


def test_requirements(tmp_path):
    pytest.importorskip('packaging')
    assert 'not installed' in found(tmp_path)['packages']['found']
    install(tmp_path, 'captcha_lab', '0.1.0', ['fastai>=2.8', 'numpy', 'safetensors', 'gone; extra == "app"', 'wine; sys_platform == "msdos"'])
    install(install(tmp_path, 'fastai', '2.1'), 'numpy')
    row = found(tmp_path)['packages']
    assert row['state'] == 'bad' and row['found'] == 'fastai 2.1 is not >=2.8; safetensors is missing' and row['fix']


@pytest.mark.parametrize('check, module, code, says', [
    ('torchvision', 'torchvision', "raise RuntimeError('operator torchvision::nms does not exist')", 'different devices'),
    ('fastai', 'fastai', "raise ImportError('libtorch_cuda.so: undefined symbol: x')", 'different devices'),
    ('cv2', 'cv2', "raise ImportError('libGL.so.1: cannot open shared object file')", 'libGL'), ('cv2', 'cv2', 'import os; os.abort()', 'ended with code'),
    ('device', 'torch', "raise OSError('[WinError 126] not found\\nreally')", 'really'), ('onnxruntime', 'onnxruntime', "raise ModuleNotFoundError(\"No module named 'onnxruntime'\")", 'not installed')])
def test_broken_package(tmp_path, check, module, code, says):
    (tmp_path/f'{module}.py').write_text(code)
    row = probe(check, PYTHONPATH=str(tmp_path))
    assert row['state'] == ('note' if check == 'onnxruntime' else 'bad') and says in row['found'] and row['fix'] and '\n' not in row['found']


def test_a_package_that_hangs(tmp_path):
    (tmp_path/'cv2.py').write_text('import time; time.sleep(60)')
    row = probe('cv2', seconds=1, PYTHONPATH=str(tmp_path))
    assert row['state'] == 'bad' and 'TimeoutExpired' in row['found']


def test_damaged_model(tmp_path, monkeypatch):
    (tmp_path/'a.safetensors').write_bytes(b'junk')
    probe_code = doctor._PROBES['models'].replace('model_zoo()', f'model_zoo({str(tmp_path)!r})')
    monkeypatch.setitem(doctor._PROBES, 'models', probe_code)
    row = probe('models')
    assert row['state'] == 'bad' and 'a.safetensors' in row['found']


def test_machine(tmp_path, monkeypatch):
    monkeypatch.setenv('CAPTCHA_LAB_MIRROR', str(tmp_path/'none'))
    rows = {r['check']: r for r in check_machine()}
    assert rows['mirror']['state'] == 'bad' and 'CAPTCHA_LAB_MIRROR' in rows['mirror']['fix']
    monkeypatch.setenv('CAPTCHA_LAB_SEED', 'x')
    assert [r['check'] for r in check_machine()][-1] == 'settings'
    monkeypatch.setattr(sys, 'version_info', (3, 9))
    assert next(check_machine())['state'] == 'bad'


def test_needs_nothing_heavy(tmp_path):
    "With every dependency broken but those of the command line itself, it still says so"
    for name in ('torch', 'torchvision', 'cv2', 'fastai', 'onnxruntime', 'pandas', 'PIL', 'matplotlib', 'packaging'): (tmp_path/f'{name}.py').write_text("raise ImportError('broken')")
    code = 'from captcha_lab.cli import main; main()'
    r = subprocess.run([sys.executable, '-c', code, 'doctor', '--json'], capture_output=True, text=True, cwd=ROOT, env=os.environ | {'PYTHONPATH': str(tmp_path)})
    rows = {o['check']: o for o in map(json.loads, r.stdout.splitlines())}
    assert r.returncode == 2 and 'Traceback' not in r.stderr
    assert {k for k, o in rows.items() if o['state'] == 'bad'} >= {'device', 'torchvision', 'cv2', 'fastai', 'data', 'fonts'}
    assert all(set(o) == {'check', 'state', 'found', 'fix'} and (o['fix'] or o['state'] == 'ok') for o in rows.values())


def test_command(monkeypatch, capsys):
    monkeypatch.setattr(doctor, 'diagnose', lambda: iter([doctor.finding('x', 'ok', 'fine'), doctor.finding('y', 'note', 'so so', 'mend it')]))
    assert cli.main(['doctor']) == 0
    out, err = capsys.readouterr()
    assert 'mend it' in out and err == 'no problems found\n'
    monkeypatch.setattr(doctor, 'diagnose', lambda: iter([doctor.finding('x', 'bad', 'broken', 'mend it')]))
    assert cli.main(['doctor', '--json']) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {'check': 'x', 'state': 'bad', 'found': 'broken', 'fix': 'mend it'} and err == '1 problem found\n'


def test_only_probes_take_time(): assert len(list(diagnose(imports=False))) < 12
