"""The settings of the runtime, as the documents show them."""

from pathlib import Path
import re

import pytest
from vqbet_ros.errors import ConfigError
from vqbet_ros.runtime.gate import ReasonKind
from vqbet_ros.runtime.reactions import REACTIONS
from vqbet_ros.runtime_spec import RuntimeSettings
from vqbet_ros.structured import from_mapping, parse_yaml, to_mapping

ROOT = Path(__file__).resolve().parents[2]


def test_the_documents_show_every_setting_with_its_default():
    text = (ROOT / 'docs/safety.md').read_text(encoding='utf-8')
    (block,) = re.findall(r'```yaml\n(.*?)```', text, re.DOTALL)
    assert parse_yaml(block)['runtime'] == to_mapping(RuntimeSettings())


def test_the_documents_name_every_reason_with_what_it_does():
    text = (ROOT / 'docs/ros.md').read_text(encoding='utf-8')
    rows = dict(re.findall(r'^\| ([^|]+) \| ([a-z ]*) \| [^|]+\|$', text, re.MULTILINE))
    for kind in ReasonKind:
        assert kind.value in rows, f'docs/ros.md has no row for {kind.value!r}'
        assert rows[kind.value] == REACTIONS[kind].name.lower(), kind


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'blend': {'kind': 'mix'}}, 'blend.kind'),
        ({'watch': {'deadman_timeout': 1.0}}, "did you mean 'deadman_timeout_s'"),
        ({'start': {'tolerance': -1.0}}, 'tolerance: got -1.0'),
        ({'control_rate_hz': 0.0}, 'control_rate_hz: got 0.0'),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError) as caught:
        from_mapping(RuntimeSettings, settings, 'spec')
    assert message in str(caught.value)
