"""Two packages from npm, each at one version and checked against its checksum: `python -m tools.npm` fetches them

The site needs onnxruntime-web (the page `try`), its tests axe-core. Only the files named here are kept, in `npm/` of the folder for data sets."""
import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from captcha_lab.core import settings, whole_dir


class Package(NamedTuple):
    "One version of a package, as npm's registry describes it"
    version: str
    integrity: str  # what follows `sha512-` in `npm view NAME dist.integrity`
    files: tuple  # what we need of it, below `package/`


PACKAGES = {
    'onnxruntime-web': Package('1.30.0', 'q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==',
                               ('dist/ort.wasm.bundle.min.mjs', 'dist/ort-wasm-simd-threaded.wasm')),
    'axe-core': Package('4.14.1', 'FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==', ('axe.min.js',))}


def kept(name):
    "Where the files of a package are once they were fetched"
    return settings().data/'npm'/f'{name}-{PACKAGES[name].version}'


def unpack(archive, package, folder):
    "Take the files we need out of an archive; raises `ValueError` if it isn't the one we know"
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != package.integrity: raise ValueError(f'{archive.name}: not the checksum that tools/npm.py has')
    with tarfile.open(archive) as tar:
        for f in package.files: (folder/Path(f).name).write_bytes(tar.extractfile(f'package/{f}').read())


def fetch(name):
    "The folder with a package's files, fetched if need be; None, and a line that says why, where that can't be done"
    if kept(name).is_dir(): return kept(name)
    package, npm = PACKAGES[name], shutil.which('npm')
    if not npm: return print(f'no {name}: npm is not installed')
    with tempfile.TemporaryDirectory() as tmp:
        call = [npm, 'pack', f'{name}@{package.version}', '--pack-destination', tmp, '--fetch-retries=1']
        done = subprocess.run(call, capture_output=True, text=True, cwd=tmp)
        found = list(Path(tmp).glob('*.tgz'))
        if done.returncode or not found: return print(f'no {name}: npm could not fetch it')
        kept(name).parent.mkdir(parents=True, exist_ok=True)
        with whole_dir(kept(name)) as folder: unpack(found[0], package, folder)
    return kept(name)


if __name__ == '__main__': sys.exit(not all([fetch(name) for name in PACKAGES]))
