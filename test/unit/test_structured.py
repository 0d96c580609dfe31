"""Mappings to dataclasses and back, strictly."""

from dataclasses import dataclass, field
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st
import pytest
from vqbet_ros.errors import ConfigError
from vqbet_ros.structured import did_you_mean, from_mapping, load_yaml, to_mapping
import yaml


@dataclass(frozen=True)
class Inner:
    number: int
    share: float = 0.5

    def __post_init__(self):
        if self.share > 1:
            raise ValueError(f'share must be at most 1, got {self.share}')


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    flag: bool = False
    kind: Literal['a', 'b'] = 'a'
    maybe: float | None = None
    several: tuple[Inner, ...] = ()
    pair: tuple[int, float] = (0, 0.0)
    named: dict[str, Inner] = field(default_factory=dict)


inners = st.builds(
    Inner, number=st.integers(-9, 9), share=st.floats(-1, 1, allow_nan=False, width=32)
)
outers = st.builds(
    Outer,
    name=st.text(st.characters(min_codepoint=32, max_codepoint=126)),
    inner=inners,
    flag=st.booleans(),
    kind=st.sampled_from(['a', 'b']),
    maybe=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    several=st.lists(inners, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), st.floats(allow_nan=False)),
    named=st.dictionaries(st.sampled_from(['x', 'y']), inners),
)


@given(outers)
def test_what_is_written_as_yaml_reads_back_the_same(value):
    text = yaml.safe_dump(to_mapping(value))
    assert from_mapping(Outer, yaml.safe_load(text), 'here') == value


@pytest.mark.parametrize(
    ('mapping', 'parts'),
    [
        ({}, ["missing key 'name'", "missing key 'inner'", 'here: 2 problem(s)']),
        ({'name': 'n', 'inner': {}}, ["missing key 'inner.number'"]),
        ({'name': 'n', 'inner': {'number': True}}, ['inner.number: got True, expected int']),
        ({'name': 3, 'inner': {'number': 1}}, ['name: got 3, expected str']),
        (
            {'name': 'n', 'inner': {'number': 1, 'share': 2}},
            ['inner: share must be at most 1, got 2.0'],
        ),
        (
            {'name': 'n', 'inner': {'number': 1}, 'several': [{'number': 1}, {'numbr': 2}]},
            ["unknown key 'several[1].numbr' (did you mean 'number'?)"],
        ),
        ({'name': 'n', 'inner': {'number': 1}, 'several': 3}, ['several: got 3, expected a list']),
        ({'name': 'n', 'inner': {'number': 1}, 'pair': [1]}, ['pair: got [1], expected a list']),
        (
            {'name': 'n', 'inner': {'number': 1}, 'named': []},
            ['named: got [], expected a mapping'],
        ),
        (
            {'name': 'n', 'inner': {'number': 1}, 'kind': 'c'},
            ["got 'c', expected one of 'a', 'b'"],
        ),
        ([1], ['Outer: got [1], expected a mapping']),
    ],
)
def test_every_problem_is_told(mapping, parts):
    with pytest.raises(ConfigError) as caught:
        from_mapping(Outer, mapping, 'here')
    for part in parts:
        assert part in str(caught.value)


def test_whole_numbers_stand_for_floats():
    share = from_mapping(Inner, {'number': 1, 'share': 1}, 'here').share
    assert share == 1.0
    assert isinstance(share, float)


def test_suggestions():
    assert did_you_mean('hsitory', ['history', 'chunk']) == " (did you mean 'history'?)"
    assert did_you_mean('zzz', ['history', 'chunk']) == ''


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / 'bytes.yaml'
    path.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ConfigError, match='is not valid YAML'):
        load_yaml(path)
