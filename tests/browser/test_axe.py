"What axe-core, which looks for barriers, finds on pages of each kind"
import pytest

from tools import npm

PAGES = ['index.html', 'try.html', 'lessons/sequences.html', 'render.html', 'cli.html', 'data_cards.html', 'model_cards.html', 'about.html', 'teachers.html', 'glossary.html', 'lessons/twelve.html']
FINDINGS = '''async () => (await axe.run()).violations.filter((v) => ["serious", "critical"].includes(v.impact))
    .map((v) => `${v.id}: ${v.nodes.length} times, as in ${v.nodes[0].html.slice(0, 160)} ${v.nodes[0].failureSummary}`)'''


@pytest.fixture(scope='module')
def axe():
    path = npm.kept('axe-core')/'axe.min.js'
    if not path.exists(): pytest.skip('axe-core was not fetched: python -m tools.npm')
    return path


@pytest.mark.parametrize('size, scheme', [('desk', 'light'), ('desk', 'dark'), ('phone', 'light')])
@pytest.mark.parametrize('name', PAGES)
def test_no_serious_finding(visit, axe, name, size, scheme):
    page = visit(name, size, scheme)
    page.add_script_tag(path=axe)
    assert page.evaluate(FINDINGS) == []
