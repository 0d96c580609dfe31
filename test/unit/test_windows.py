"""Rows of training samples: borders of episodes, masks, goals, batches."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from vqbet_ros.data.windows import batch_of, frame_table, goal_rows, split_episodes, windows

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)
sizes = st.integers(1, 5)


def table(lengths, episodes=None):
    ends = np.cumsum(lengths).astype(np.int64)
    chosen = np.arange(len(lengths)) if episodes is None else np.array(episodes)
    return frame_table(ends, chosen)


def test_a_case_worked_out_by_hand():
    frames = table([3, 4]).take(np.array([0, 2, 3]))  # rows 0 and 2 of the first, 3 of the second
    found = windows(frames, history=2, chunk=3)
    assert found.observed.tolist() == [[0, 0], [1, 2], [3, 3]]
    assert found.present.tolist() == [[False, True], [True, True], [False, True]]
    assert found.actions[1].tolist() == [[1, 2, 2], [2, 2, 2]]
    assert found.mask[1].tolist() == [[True, True, False], [True, False, False]]
    assert found.actions[2].tolist() == [[3, 3, 4], [3, 4, 5]]
    assert found.mask[2].tolist() == [[False, False, False], [True, True, True]]


@given(lengths, sizes, sizes)
def test_windows_equal_a_plain_loop_and_never_cross_a_border(lengths, history, chunk):
    frames = table(lengths)
    found = windows(frames, history, chunk)
    for i in range(len(frames)):
        start, end = int(frames.start[i]), int(frames.end[i])
        assert ((found.observed[i] >= start) & (found.observed[i] < end)).all()
        assert ((found.actions[i] >= start) & (found.actions[i] < end)).all()
        for k in range(history):
            row = int(frames.at[i]) - (history - 1) + k
            assert found.present[i, k] == (row >= start)
            if row >= start:
                assert found.observed[i, k] == row
            for j in range(chunk):
                assert found.mask[i, k, j] == (row >= start and row + j < end)
                if found.mask[i, k, j]:
                    assert found.actions[i, k, j] == row + j
        # Padding repeats the last real action, as the tokenizer expects.
        assert (found.actions[i, -1][~found.mask[i, -1]] == end - 1).all()


@given(lengths, st.data())
def test_the_table_lists_each_frame_of_the_chosen_episodes_once(lengths, data):
    count = len(lengths)
    episodes = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    frames = table(lengths, episodes)
    number = np.repeat(np.arange(count), lengths)  # episode of every row
    rows = np.flatnonzero(np.isin(number, episodes))
    assert frames.at.tolist() == rows.tolist()
    assert frames.episode.tolist() == number[rows].tolist()
    assert (frames.start <= frames.at).all()
    assert (frames.at < frames.end).all()
    assert (number[frames.start] == frames.episode).all()
    assert (number[frames.end - 1] == frames.episode).all()


def test_a_table_of_no_episode():
    assert len(table([3, 4], np.zeros(0, dtype=np.int64))) == 0


@given(lengths, sizes, st.integers(0, 99))
def test_goals_lie_later_in_the_same_episode(lengths, steps, seed):
    frames = table(lengths)
    rows = goal_rows(frames, steps, np.random.default_rng(seed))
    assert rows.shape == (len(frames), steps)
    assert (rows >= frames.start[:, None]).all()
    assert (rows < frames.end[:, None]).all()
    assert np.isin(np.diff(rows, axis=1), (0, 1)).all()
    enough = frames.end - frames.at > steps
    assert (rows[enough] > frames.at[enough, None]).all()
    long = frames.end - frames.start >= steps
    assert (np.diff(rows[long], axis=1) == 1).all()
    # Where fewer rows are left, the goal is the episode's end.
    assert (rows[~enough, -1] == frames.end[~enough] - 1).all()


def test_every_later_row_is_a_goal_sometimes():
    frames = table([8]).take(np.full(500, 2))
    rows = goal_rows(frames, 2, np.random.default_rng(0))
    assert sorted(set(rows[:, 0].tolist())) == [3, 4, 5, 6]


@given(st.integers(1, 40), st.floats(0, 0.99), st.integers(0, 5))
def test_splits_are_disjoint_and_complete(count, fraction, seed):
    train, val = split_episodes(np.arange(count), fraction, seed)
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(count))
    assert len(train) >= 1
    if fraction > 0 and count > 1:
        assert len(val) >= 1
    if fraction == 0:
        assert len(val) == 0
    again = split_episodes(np.arange(count), fraction, seed)
    assert train.tolist() == again[0].tolist()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.floats(0, 0.99))
def test_a_split_does_not_part_a_demonstration(demonstrations, fraction):
    train, val = split_episodes(np.array(demonstrations), fraction, seed=0)
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(len(demonstrations)))
    assert not {demonstrations[i] for i in train} & {demonstrations[i] for i in val}
    assert len(train) >= 1
    if fraction > 0 and len(set(demonstrations)) > 1:
        assert len(val) >= 1


def test_splits_stay_as_they_are():
    """Cards of models that were trained once quote them."""
    assert split_episodes(np.arange(12), 0.25, 0)[1].tolist() == [2, 7, 9]
    val = split_episodes(np.arange(412) // 2, 0.1, 0)[1].tolist()
    assert val[::2] == [12, 50, 78, 108, 120, 150, 166, 168, 180, 186, 188, 212, 232, 234, 258,
                        280, 288, 354, 374, 386, 388]  # fmt: skip
    assert val[1::2] == [i + 1 for i in val[::2]]


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 3), st.integers(0, 3))
def test_batches_of_a_pass_hold_no_sample_twice(count, batch, seed, epoch):
    size = min(batch, count)
    per_epoch = count // size
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    batches = [batch_of(step, count, batch, seed) for step in steps]
    assert {len(rows) for rows in batches} == {size}
    seen = np.concatenate(batches)
    assert len(set(seen.tolist())) == per_epoch * size
    assert set(seen.tolist()) <= set(range(count))
    if count % size == 0:
        assert sorted(seen.tolist()) == list(range(count))


def test_a_batch_depends_on_nothing_but_its_arguments():
    forwards = [batch_of(step, 7, 2, 5).tolist() for step in range(9)]
    backwards = [batch_of(step, 7, 2, 5).tolist() for step in reversed(range(9))]
    assert forwards == backwards[::-1]
    # Step 4 is the second batch of the second pass, each pass being 3 batches.
    assert forwards[4] == np.random.default_rng((5, 1)).permutation(7)[2:4].tolist()
    assert forwards != [batch_of(step, 7, 2, 6).tolist() for step in range(9)]
