"Packaging: all metadata comes from settings.ini; `data/` travels in wheels as `captcha_lab/_share`"
import shlex
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

SHARED = ('registry.json', 'splits', 'labels', 'models', 'results', 'samples')
STATUS = {'1': '1 - Planning', '2': '2 - Pre-Alpha', '3': '3 - Alpha', '4': '4 - Beta', '5': '5 - Production/Stable'}
LICENCE = {'apache2': 'Apache-2.0', 'mit': 'MIT', 'bsd3': 'BSD-3-Clause'}

root = Path(__file__).resolve().parent
cfg = ConfigParser(delimiters=['='])
cfg.read(root/'settings.ini', encoding='utf-8')
meta = cfg['DEFAULT']
words = lambda key: shlex.split(meta.get(key, ''))
extras = {k.removesuffix('_requirements'): words(k) for k in meta if k.endswith('_requirements')}
readme = root/'README.md'


class BuildWithShare(build_py):
    "Copy what travels with the library beside its modules; an editable install reads `data/` itself"
    def run(self):
        package = Path(self.build_lib)/meta['lib_name']
        shutil.rmtree(package, ignore_errors=True)  # what an earlier build left may be gone from the source
        super().run()
        if self.editable_mode: return
        for name in SHARED: self._copy(root/'data'/name, package/'_share'/name)

    def _copy(self, source, target):
        if source.is_dir(): shutil.copytree(source, target, ignore=shutil.ignore_patterns('.*', '__pycache__'))
        elif source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


setup(
    name=meta['lib_name'], version=meta['version'], description=meta['description'], keywords=meta['keywords'].split(),
    author=meta['author'], author_email=meta['author_email'], url=meta['git_url'],
    license=LICENCE.get(meta['license'], meta['license']),
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '', long_description_content_type='text/markdown',
    classifiers=[f'Development Status :: {STATUS[meta["status"]]}', f'Intended Audience :: {meta["audience"]}',
                 f'Natural Language :: {meta["language"]}', 'Programming Language :: Python :: 3'],
    packages=find_packages(include=[meta['lib_path'], f'{meta["lib_path"]}.*']), python_requires=f'>={meta["min_python"]}',
    package_dir={'': '.'},  # so that an editable install puts the whole checkout on the path: nbdev's docs commands find tools.docproc
    install_requires=words('requirements'), extras_require=extras, zip_safe=False, cmdclass={'build_py': BuildWithShare},
    entry_points={'console_scripts': words('console_scripts'), 'nbdev': [f'{meta["lib_name"]}={meta["lib_path"]}._modidx:d']},
)
