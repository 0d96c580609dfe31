"""The recorder's state machine: random calls with a disk that fails, and each refusal."""

from datetime import datetime
from itertools import combinations
from pathlib import Path
import shutil
import tempfile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, RuleBasedStateMachine
import pytest
from vqbet_ros.data.live import is_being_recorded
from vqbet_ros.errors import BadBag
from vqbet_ros.recording.bag import BagOptions, BagWriter, read_custom_data
from vqbet_ros.recording.session import DISCARDED, OUTCOME_KEY, Session, State
from vqbet_ros.recording.unfinished import unfinished

S = 1_000_000_000
NOW = 1_700_000_000 * S
FULL = OSError(28, 'No space left on device')


class Disk:
    """A world in which each episode is in one place, and things fail when they are told to."""

    def __init__(self):
        self.episodes = {}  # by path: open, whole or broken
        self.labels = {}
        self.fails = set()

    def check(self, what):
        if what in self.fails:
            raise FULL if what != 'label' else BadBag('no metadata.yaml')

    def open(self, path):
        self.check('open')
        path.mkdir()
        self.episodes[path] = 'open'
        return Episode(self, path)

    def move(self, path, target):
        self.check('move')
        assert self.episodes[path] != 'open', 'never while it is written'
        assert not target.exists()
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
        self.episodes[target] = self.episodes.pop(path)

    def label(self, path, outcome):
        self.check('label')
        assert self.episodes[path] == 'whole'
        self.labels[path] = outcome


class Episode:
    def __init__(self, disk, path):
        self.disk, self.path = disk, path

    @property
    def is_open(self):
        return self.disk.episodes[self.path] == 'open'

    def close(self, outcome):
        assert self.is_open, 'closed twice'
        self.disk.check('slow')
        if 'close' in self.disk.fails:
            self.disk.episodes[self.path] = 'broken'
            raise FULL
        self.disk.episodes[self.path] = 'whole'
        self.disk.labels[self.path] = outcome
        return 'good'


def failures(*kinds):
    """Draw what fails in a call: nothing, one thing, or two."""
    single = [{kind} for kind in kinds]
    double = [set(pair) for pair in combinations(kinds, 2)]
    return st.sampled_from([set(), *single, *double])


class Calls(RuleBasedStateMachine):
    """Any order of service calls, with any failures, against a plain model of what is where."""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.disk = Disk()
        self.now_ns = NOW
        self.running: Path | None = None
        self.kept: list[Path] = []
        self.thrown: list[Path] = []
        self.broken: list[Path] = []

    def teardown(self):
        shutil.rmtree(self.root)

    @initialize()
    def the_recorder_starts(self):
        self.new_session()

    @precondition(lambda self: self.running is None)
    @rule()
    def the_recorder_starts_again(self):
        self.new_session()

    def new_session(self):
        folder = self.root / 'recordings'
        self.session = Session(folder, 'arm', self.disk.open, self.disk.label, self.disk.move)
        self.count = 0
        self.last: Path | None = None  # what `mark` is about
        self.may_discard = False
        self.broken_now: list[Path] = []

    @rule(seconds=st.sampled_from([0.0, 0.4, 1.0, 60.0, -3600.0]))
    def time_passes(self, seconds):
        self.now_ns += round(seconds * S)

    @precondition(lambda self: self.running is None)
    @rule()
    def begin(self):
        self.start(set())

    @precondition(lambda self: self.running is None)
    @rule(seconds=st.sampled_from([0.0, 0.4, 60.0]))
    def begin_after(self, seconds):
        self.now_ns += round(seconds * S)
        self.start(set())

    @rule(fails=failures('open'))
    def start_somehow(self, fails):
        self.start(fails)

    def start(self, fails):
        self.disk.fails = fails
        answer = self.session.start(self.now_ns)
        self.expect(answer, self.running is None and not fails)
        if answer.success:
            self.running = self.session.path
            self.count += 1

    @rule(outcome=st.sampled_from(['unmarked', 'incomplete']), fails=failures('slow', 'close'))
    def stop(self, outcome, fails):
        running = self.running
        self.disk.fails = fails
        answer = self.session.stop(self.now_ns, outcome)
        self.expect(answer, running is not None and not fails)
        if answer.success:
            self.keep(running)
            assert self.disk.labels[running] == outcome
        elif running and 'slow' not in fails:
            self.break_(running)
            assert f'vqbet recover {running}' in answer.text

    @rule(fails=failures('slow', 'close', 'move'))
    def discard(self, fails):
        running = self.running
        self.disk.fails = fails
        path = running or (self.last if self.may_discard else None)
        answer = self.session.discard(self.now_ns)
        blocked = 'move' in fails or (running and 'slow' in fails)
        self.expect(answer, path is not None and not blocked)
        if answer.success:
            assert path is not None
            self.thrown.append(path)
            self.may_discard = False
            if running:
                self.running = None
            else:
                self.kept.remove(path)
                self.last = None
        elif running and 'slow' not in fails:
            (self.break_ if 'close' in fails else self.keep)(running)

    @rule(success=st.booleans(), fails=failures('label'))
    def mark(self, success, fails):
        self.disk.fails = fails
        answer = self.session.mark(success)
        fits = self.running is None and self.last is not None
        self.expect(answer, fits and not fails)
        if answer.success:
            assert self.disk.labels[self.last] == ('success' if success else 'failure')

    def expect(self, answer, success):
        assert answer.success == success, answer
        assert answer.text.strip()

    def keep(self, path):
        self.kept.append(path)
        self.running, self.last, self.may_discard = None, path, True

    def break_(self, path):
        self.broken.append(path)
        self.broken_now.append(path)
        self.running = self.last = None

    @invariant()
    def each_episode_is_where_the_session_says(self):
        root = self.session.root
        expected = dict.fromkeys(self.kept, 'whole')
        expected |= dict.fromkeys(self.broken, 'broken')
        if self.running:
            expected[self.running] = 'open'
        episodes = self.disk.episodes
        assert {p: s for p, s in episodes.items() if p.parent == root} == expected
        assert {p.name for p in episodes if p.parent == root / DISCARDED} == {
            path.name for path in self.thrown
        }
        assert all(path.is_dir() for path in episodes)
        assert len(episodes) == len(expected) + len(self.thrown)

    @invariant()
    def the_state_is_the_models(self):
        assert self.session.path == self.running
        assert self.session.state is (State.RECORDING if self.running else State.IDLE)
        assert self.session.last_kept == self.last
        outcome = self.disk.labels[self.last] if self.last else None
        assert self.session.last_outcome == outcome
        assert [one.path for one in self.session.broken] == self.broken_now
        assert self.session.count == self.count


Calls.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestCalls = Calls.TestCase


class RealEpisode:
    """An episode of the real bag writer, without a thread."""

    def __init__(self, path):
        self.bag = BagWriter(path, BagOptions(), {OUTCOME_KEY: 'incomplete'})
        self.is_open = True

    def close(self, outcome):
        self.is_open = False
        self.bag.close({OUTCOME_KEY: outcome})
        return 'empty'


@pytest.fixture
def session(tmp_path):
    root = tmp_path / 'deep' / 'recordings'
    return Session(root, 'left arm/2', RealEpisode, wall_ns=lambda: NOW)


def test_names_tell_robot_local_time_and_number(session):
    session.start(7 * S)  # a simulation's clock begins at 0
    moment = datetime.fromtimestamp(NOW / S)
    assert session.path is not None
    assert session.path.name == f'left_arm_2_{moment:%Y%m%d_%H%M%S}_01'
    session.stop(NOW)
    session.start(NOW)
    assert session.path.name.endswith('_02')


def test_a_name_that_is_taken_is_passed_over(session, tmp_path):
    session.start(NOW)
    session.discard(NOW)
    again = Session(session.root, 'left arm/2', RealEpisode, wall_ns=lambda: NOW)
    again.start(NOW)
    assert again.path is not None
    assert again.path.name.endswith('_02')


def test_real_bags_are_kept_labelled_and_thrown_away(session):
    assert session.start(NOW).success
    path = session.path
    assert path is not None
    assert is_being_recorded(path)
    assert unfinished(session.root) == []
    answer = session.stop(NOW + 3 * S)
    assert answer.text == f'kept {path.name}, 3.0 s: empty'
    assert unfinished(session.root) == []
    assert read_custom_data(path)[OUTCOME_KEY] == 'unmarked'
    assert session.mark(True).success
    assert read_custom_data(path)[OUTCOME_KEY] == session.last_outcome == 'success'
    assert session.mark(False).success
    assert read_custom_data(path)[OUTCOME_KEY] == 'failure'
    assert session.discard(NOW).success
    assert not path.exists()
    thrown = session.root / DISCARDED / path.name
    assert read_custom_data(thrown)[OUTCOME_KEY] == 'failure'
    assert unfinished(session.root) == []


def test_every_refusal_says_why(session):
    assert 'nothing is being recorded' in session.stop(NOW).text
    assert 'nothing to discard' in session.discard(NOW).text
    assert 'nothing to mark as success' in session.mark(True).text
    session.start(NOW)
    name = session.path and session.path.name
    answer = session.start(NOW + 7 * S)
    assert f'{name} is already being recorded, for 7 s; stop or discard it first' == answer.text
    assert 'still being recorded' in session.mark(True).text
    session.stop(NOW)
    assert name in session.stop(NOW).text
    session.start(NOW)
    session.discard(NOW)
    answer = session.discard(NOW)
    assert f'{name} was kept before that, and stays' in answer.text
    assert session.mark(True).text == f'marked {name} as success'


def test_a_folder_that_cannot_be_made_is_a_reason(tmp_path):
    (tmp_path / 'file').write_text('in the way')
    session = Session(tmp_path / 'file' / 'recordings', 'arm', RealEpisode)
    answer = session.start(NOW)
    assert not answer.success
    assert 'could not be begun' in answer.text
    assert session.state is State.IDLE


def test_episodes_that_a_crash_left_are_named_with_their_cure(tmp_path):
    assert unfinished(tmp_path / 'absent') == []
    root = tmp_path / 'my recordings'
    killed = BagWriter(root / 'arm_1', BagOptions(), {})
    killed.abandon()
    BagWriter(root / 'arm_2', BagOptions(), {}).close({})
    shutil.copytree(root / 'arm_1', root / 'arm_1.crashed')
    (root / 'notes').mkdir()
    (root / 'notes.txt').write_text('not a bag')
    (found,) = unfinished(root)
    assert found.path == root / 'arm_1'
    assert found.command == f"vqbet recover '{root}/arm_1'"
    assert 'arm_1 was never ended' in str(found)
