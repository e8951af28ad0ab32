"No test touches the network; progress bars are off; property tests are the same on every run"
import os
import socket

import pytest

try:
    from hypothesis import settings
    settings.register_profile('lab', derandomize=True, deadline=None, max_examples=40)
    settings.load_profile('lab')
except ImportError: pass

LOCAL = ('127.0.0.1', '::1', 'localhost')
os.environ['CAPTCHA_LAB_PROGRESS'] = 'none'
os.environ['PIP_NO_INDEX'] = '1'
os.environ.setdefault('MPLBACKEND', 'agg')
os.environ['no_proxy'] = os.environ['NO_PROXY'] = ','.join(LOCAL)
for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'): os.environ[name] = 'http://127.0.0.1:9'  # child processes get nowhere either


@pytest.fixture(autouse=True, scope='session')
def no_network():
    "A connection to another machine fails at once"
    real = socket.socket.connect

    def connect(self, address):
        if isinstance(address, tuple) and address[0] not in LOCAL: raise RuntimeError(f'a test wants to connect to {address[0]}')
        return real(self, address)
    with pytest.MonkeyPatch.context() as mp:
        mp.setattr(socket.socket, 'connect', connect)
        yield


@pytest.fixture(scope='module')
def one_thread():
    "Small things are quicker so, and come out the same in every process"
    torch = pytest.importorskip('torch')
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    "No test meets the data sets of this machine"
    monkeypatch.setenv('CAPTCHA_LAB_DATA', str(tmp_path/'own data'))
    monkeypatch.delenv('CAPTCHA_LAB_MIRROR', raising=False)
