"The app in a process of its own, for tests"
import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from types import SimpleNamespace

from tools.notebook import ROOT

MISSING = next((f'needs {name}, which the extra `app` has' for name in ('gradio', 'onnx', 'onnxruntime') if not importlib.util.find_spec(name)), '')


@contextlib.contextmanager
def running(folder, *args):
    "The app on a free port, with `folder` for its uploads; yields its address, its process, how long it took to start, and the folder"
    env = os.environ | {'TMPDIR': str(folder), 'PYTHONPATH': str(ROOT)}
    start = time.perf_counter()
    command = [sys.executable, '-c', 'from captcha_lab.cli import main; main()', 'app', '--port', '0', *map(str, args)]
    p = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=folder)
    try:
        line = p.stdout.readline()
        assert line.startswith('http://'), 'the app has not started'
        yield SimpleNamespace(home=line.split()[0], process=p, seconds=time.perf_counter() - start, folder=folder)
    finally:
        p.terminate()
        p.wait(30)
        p.stdout.close()
