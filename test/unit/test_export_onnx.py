"""An exported graph decides as the policy does; nothing is left behind where it does not."""

from dataclasses import replace
import json
import sys

from engine_parts import CONFIG, KEYPOINTS, make_engine, Recording, SPEC
import numpy as np
import pytest
from vqbet_ros.cli.main import main
from vqbet_ros.errors import VqbetError
from vqbet_ros.policy import onnx_export
from vqbet_ros.policy.checkpoint import save_checkpoint

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
SEQUENTIAL = replace(CONFIG, code_mode='sequential', head_hidden=8, relative_actions=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'spec', 'temperature'),
    [
        (CONFIG, SPEC, 0.0),
        (SEQUENTIAL, SPEC, 1.0),
        (replace(CONFIG, goal_steps=0, goal_state=False), KEYPOINTS, 1.0),
        (replace(CONFIG, state=False, goal_state=False), SPEC, 0.0),
    ],
    ids=['goals', 'sequential', 'no cameras', 'no state'],
)
def test_onnx_runtime_gives_what_the_policy_gives(tmp_path, config, spec, temperature):
    policy = make_engine(config, spec).policy
    path = tmp_path / 'policy.onnx'
    found = onnx_export.export(policy, path, temperature=temperature)
    assert found.same_codes == 1.0
    assert max(found.action_error, found.probability_error, found.feature_error) < 1e-4
    graph = onnx.load(path).graph
    dims = [d for v in (*graph.input, *graph.output) for d in v.type.tensor_type.shape.dim]
    assert all(dim.dim_value > 0 for dim in dims)  # nothing dynamic
    assert ('noise' in [value.name for value in graph.input]) == (temperature > 0)
    assert b'.py' not in path.read_bytes()  # no tracebacks, with the paths of who exported it
    assert [p.name for p in tmp_path.iterdir()] == ['policy.onnx']


@pytest.mark.slow
def test_an_episode_in_onnx_runtime_goes_as_in_the_engine(tmp_path, capsys):
    engine = make_engine(SEQUENTIAL)
    save_checkpoint(tmp_path / 'checkpoint', engine.policy, card='', training={})
    names = [str(tmp_path / name) for name in ('checkpoint', 'out/policy.onnx', 'result.json')]
    assert (
        main(['export', 'onnx', names[0], names[1], '--temperature', '0', '--json', names[2]]) == 0
    )
    assert 'the same codes in 100.0%' in capsys.readouterr().out
    result = json.loads((tmp_path / 'result.json').read_text(encoding='utf-8'))
    assert result['inputs']['image_top'] == 'uint8 32x32x3'
    assert result['same_codes'] == 1.0

    session = onnxruntime.InferenceSession(names[1], providers=['CPUExecutionProvider'])
    recording = Recording()
    earlier = np.zeros((2, 2, 6), np.float32)
    for goal in (False, True):
        features = np.zeros((2, 2, 6), np.float32)
        if goal:
            images = {name: i[6:8] for name, i in recording.images.items()}
            engine.set_goal(images, recording.state[6:8])
            features = engine.encode(images).numpy()
        for step in range(8):
            observation = recording.observation(step)
            images = {f'image_{name}': i[step] for name, i in recording.images.items()}
            actions, codes, probabilities, newest = session.run(
                None,
                {
                    **images,
                    'earlier_features': earlier,
                    'state': observation.state,
                    'present': observation.valid,
                    'goal_features': features,
                    'goal_state': recording.state[6:8],
                    'goal_present': np.full(2, goal),
                    'running': np.array([-1 if step % 2 else 1]),
                    'hysteresis': np.array([0.1], np.float32),
                },
            )
            earlier = np.concatenate([earlier[1:], newest[None]])
            output = engine.plan(observation, running=None if step % 2 else 1, hysteresis=0.1)
            np.testing.assert_array_equal(codes, output.codes)
            np.testing.assert_allclose(actions, output.actions, rtol=1e-4, atol=1e-2)
            np.testing.assert_allclose(probabilities, output.probabilities, atol=1e-5)


def test_a_graph_that_decides_otherwise_is_not_written(tmp_path, monkeypatch):
    policy = make_engine(replace(CONFIG, goal_steps=0, goal_state=False), KEYPOINTS).policy
    act = policy.act

    def other(*args, **kwargs):
        decided = act(*args, **kwargs)
        return replace(decided, actions=decided.actions + 5.0)

    monkeypatch.setattr(policy, 'act', other)
    with pytest.raises(VqbetError, match=r'does not decide as the policy does.*not written'):
        onnx_export.export(policy, tmp_path / 'policy.onnx', temperature=0.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('package', ['onnx', 'onnxruntime', 'onnxscript'])
def test_without_the_extra_one_line_says_what_to_install(package, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(['export', 'onnx', str(tmp_path), str(tmp_path / 'policy.onnx')]) == 1
    error = capsys.readouterr().err
    assert f'needs {package}, which is not installed' in error
    assert "-e '.[onnx]'" in error
    assert error.count('\n') == 1


def test_another_temperature_needs_a_file_of_its_own(tmp_path, capsys):
    checkpoint = tmp_path / 'checkpoint'
    save_checkpoint(checkpoint, make_engine().policy, card='', training={})
    (checkpoint / 'policy.onnx').write_bytes(b'mine')
    assert main(['export', 'onnx', str(checkpoint), '--temperature', '0.5']) == 1
    assert "--temperature: got 0.5, expected the checkpoint's own 0" in capsys.readouterr().err
    assert (checkpoint / 'policy.onnx').read_bytes() == b'mine'


def test_a_temperature_below_zero_is_refused(tmp_path, capsys):
    save_checkpoint(tmp_path / 'checkpoint', make_engine().policy, card='', training={})
    file = str(tmp_path / 'policy.onnx')
    assert main(['export', 'onnx', str(tmp_path / 'checkpoint'), file, '--temperature=-1']) == 1
    assert '--temperature: got -1.0' in capsys.readouterr().err
