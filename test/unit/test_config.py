"""Training configurations: defaults, budgets of devices, overrides, and every kind of slip."""

import pytest
from vqbet_ros.config import ModelConfig, TrainConfig
from vqbet_ros.errors import ConfigError
from vqbet_ros.resources import resource
from vqbet_ros.structured import from_mapping, to_mapping
from vqbet_ros.training.resume import flattened


@pytest.fixture
def read(tmp_path):
    """Read a configuration from YAML text."""

    def parse(text, device='cpu', *overrides):
        path = tmp_path / 'config.yaml'
        path.write_text(text, encoding='utf-8')
        return TrainConfig.from_yaml(path, device, overrides)

    return parse


def refused(read, text, *overrides, device='cpu'):
    with pytest.raises(ConfigError) as caught:
        read(text, device, *overrides)
    return str(caught.value)


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
@pytest.mark.parametrize('name', ['pusht_state', 'pusht_image'])
def test_shipped_configurations(name, device):
    config = TrainConfig.from_yaml(resource(f'config/train/{name}.yaml'), device)
    assert config.policy.steps >= 1000


def test_an_empty_mapping_gives_the_defaults(read):
    assert read('{}') == TrainConfig()


def test_unknown_keys_are_refused_with_a_suggestion(read):
    message = refused(read, 'modle: {}\npolicy: {step: 3}\nmodel: {vision: {stagse: 2}}')
    assert "unknown key 'modle' (did you mean 'model'?)" in message
    assert "unknown key 'policy.step' (did you mean 'steps'?)" in message
    assert "unknown key 'model.vision.stagse' (did you mean 'stages'?)" in message


def test_wrong_types_are_told_all_at_once(read):
    message = refused(
        read,
        'seed: one\nmodel: {chunk: 2.5, state: 1}\npolicy: {lr: 1e-4, betas: [0.9]}\nencoder: 3',
    )
    for part in (
        "seed: got 'one', expected int",
        'model.chunk: got 2.5, expected int',
        'model.state: got 1, expected bool',
        "policy.lr: got '1e-4', expected float (YAML reads 1e-4 as text: write 1.0e-4)",
        'policy.betas: got [0.9], expected a list of 2',
        'encoder: got 3, expected a mapping',
    ):
        assert part in message


@pytest.mark.parametrize(
    ('text', 'part'),
    [
        ('model: {width: 10, heads: 4}', 'model: width 10 is no multiple of heads 4'),
        ('model: {history: 0}', 'model: history must be at least 1, got 0'),
        ('model: {dropout: 1.5}', 'model: dropout must be from 0 to 1, got 1.5'),
        ('model: {vision: {crop: 0}}', 'model.vision: crop must be at least 1, got 0'),
        ('encoder: {batch: 0}', 'encoder: batch must be at least 1, got 0'),
        ('tokenizer: {steps: 0}', 'tokenizer: steps must be at least 1, got 0'),
        ('policy: {batch: 0, steps: 0}', 'steps must be at least 1, got 0; batch must be'),
        ('policy: {lr: .nan}', 'policy: lr must be at least 0, got nan'),
        ('policy: {betas: [0.9, 1.0]}', 'policy: betas must be in [0, 1), got [0.9, 1.0]'),
        (
            'policy: {clip: 0.0}',
            'policy: clip must be more than 0, or null to clip nothing, got 0.0',
        ),
        ('policy: {clip: .nan}', 'policy: clip must be more than 0'),
        ('policy: {goal_dropout: 2.0}', 'policy: goal_dropout must be from 0 to 1, got 2.0'),
        ('val_fraction: 1.0', 'val_fraction must be in [0, 1), got 1.0'),
        ('save_every: 0', 'save_every must be at least 1, got 0'),
        ('model: {code_mode: jiont}', "expected one of 'joint', 'sequential' (did you mean"),
        ('budgets: {tpu: {}}', 'budgets must be a mapping of cpu and cuda'),
        ('budgets: {cpu: 3}', 'budgets.cpu must be a mapping, got 3'),
        ('- a list', 'expected a mapping at the top, got list'),
        ('seed: [', 'is not valid YAML'),
    ],
)
def test_values_that_cannot_work(read, text, part):
    assert part in refused(read, text)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match='no such file'):
        TrainConfig.from_yaml(tmp_path / 'absent.yaml', 'cpu')


BUDGETS = """
seed: 3
model: {width: 64, heads: 4, vision: {stages: 2}}
budgets:
  cpu: {policy: {steps: 10}}
  cuda: {policy: {steps: 99}, model: {width: 128, vision: {crop: 84}}}
"""


def test_the_devices_budget_is_laid_over_the_rest(read):
    cpu, cuda = read(BUDGETS, 'cpu'), read(BUDGETS, 'cuda')
    assert (cpu.policy.steps, cpu.model.width, cpu.model.vision.crop) == (10, 64, None)
    assert (cuda.policy.steps, cuda.model.width, cuda.model.vision.crop) == (99, 128, 84)
    assert cuda.model.vision.stages == cpu.model.vision.stages == 2
    assert cuda.seed == cpu.seed == 3


def test_a_slip_in_another_devices_budget_is_told(read):
    message = refused(read, 'budgets: {cuda: {polcy: {}}}', device='cpu')
    assert 'with the budget of cuda' in message
    assert "unknown key 'polcy' (did you mean 'policy'?)" in message


def test_overrides_win(read):
    config = read(
        BUDGETS,
        'cpu',
        'policy.steps=7',
        'policy.lr=1e-3',
        'model.vision.crop=null',
        'policy.betas=[0.8, 0.9]',
        'model.vision.weights=none',
        'policy.steps=8',
    )
    assert config.policy.steps == 8
    assert config.policy.lr == 1e-3
    assert config.policy.betas == (0.8, 0.9)
    assert config.model.vision.crop is None
    assert config.model.vision.weights == 'none'
    assert config.model.width == 64


@pytest.mark.parametrize(
    ('override', 'part'),
    [
        ('seed', '--set seed: expected key=value'),
        ('=3', '--set =3: expected key=value'),
        ('seed=[', '--set seed=[: the value is not valid YAML'),
        ('sede=1', "unknown key 'sede' (did you mean 'seed'?)"),
        ('model=1', 'model: got 1, expected a mapping'),
        ('seed.x=1', "seed: got {'x': 1}, expected int"),
    ],
)
def test_slips_in_overrides(read, override, part):
    assert part in refused(read, '{}', override)


def test_round_trip(read):
    config = read(BUDGETS, 'cuda')
    assert from_mapping(TrainConfig, to_mapping(config), 'here') == config


def test_flattened():
    flat = flattened(to_mapping(ModelConfig()))
    assert flat['vision.crop'] is None
    assert flat['history'] == 5
    assert 'vision' not in flat
