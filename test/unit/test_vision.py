"""The image encoder: pooling, backbones, weights and what becomes of wrong ones."""

from urllib.error import URLError

import pytest
from safetensors.torch import save_file
import torch
import torchvision
from vqbet_ros.errors import ConfigError
from vqbet_ros.policy.vision import (
    centre_crop,
    colour_jitter,
    ImageEncoder,
    random_crop,
    SpatialSoftmax,
    to_float,
)


@pytest.fixture(scope='module')
def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=3)


@pytest.fixture(scope='module')
def weights_file(resnet, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'resnet18.safetensors'
    save_file({key: value.contiguous() for key, value in resnet.state_dict().items()}, path)
    return path


@pytest.mark.parametrize(
    ('row', 'column', 'expected'),
    [(0, 0, (-1, -1)), (4, 6, (1, 1)), (2, 3, (0, 0)), (4, 0, (-1, 1))],
)
def test_a_peak_gives_its_coordinates(row, column, expected):
    pool = SpatialSoftmax(2, 2).requires_grad_(False)
    pool.reduce.weight.copy_(torch.eye(2)[:, :, None, None])
    assert pool.reduce.bias is not None
    pool.reduce.bias.zero_()
    maps = torch.zeros(1, 2, 5, 7)
    maps[0, 0, row, column] = 100.0
    x, y, x_flat, y_flat = pool(maps)[0].tolist()
    assert (x, y) == pytest.approx(expected, abs=1e-6)
    assert (x_flat, y_flat) == pytest.approx((0.0, 0.0), abs=1e-6)  # a flat map: the middle


def test_positions_keep_their_precision_under_autocast():
    torch.manual_seed(0)
    pool = SpatialSoftmax(4, 8).requires_grad_(False)
    maps = torch.randn(3, 4, 12, 12)
    with torch.autocast('cpu', torch.bfloat16):
        mixed = pool(maps)
        maps_there = pool.reduce(maps).float()
    # Only the convolution runs in half precision: the rest agrees to the last bits of float32.
    weights = maps_there.flatten(2).double().softmax(-1).unflatten(2, (12, 12))
    steps = torch.linspace(-1, 1, 12, dtype=torch.float64)
    exact = torch.stack([weights.sum(2) @ steps, weights.sum(3) @ steps], dim=-1).flatten(1)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.double(), exact, atol=1e-6, rtol=0)


@pytest.mark.parametrize(('stages', 'size'), [(1, 64), (2, 128), (4, 512)])
@pytest.mark.parametrize('pool', ['average', 'spatial_softmax'])
def test_stages_and_pools(stages, size, pool):
    encoder = ImageEncoder(stages=stages, pool=pool, keypoints=4, features=7).eval()
    assert len(encoder.trunk) == 4 + stages
    assert encoder.out.in_features == (8 if pool == 'spatial_softmax' else size)
    out = encoder(torch.rand(2, 3, 32, 32))
    assert out.shape == (2, 7)
    assert (out >= 0).all()


@pytest.mark.parametrize('backbone', ['resnet34', 'resnet50'])
def test_backbones(backbone):
    encoder = ImageEncoder(backbone=backbone, stages=2, features=5).eval()
    assert encoder(torch.rand(1, 3, 32, 32)).shape == (1, 5)


def test_group_norm_has_no_batch_statistics():
    encoder = ImageEncoder(norm='group', stages=2).train()
    kinds = {type(m).__name__ for m in encoder.modules()}
    assert 'GroupNorm' in kinds
    assert 'BatchNorm2d' not in kinds
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(encoder(images)[1:2], encoder(images[1:2]), rtol=1e-4, atol=1e-5)


def test_normalisation_is_imagenets_or_none():
    images = torch.rand(2, 3, 32, 32)
    torch.manual_seed(0)
    imagenet = ImageEncoder(stages=1, normalisation='imagenet').eval()
    unit = ImageEncoder(stages=1, normalisation='unit').eval()
    unit.load_state_dict(imagenet.state_dict())
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (images - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(imagenet(images), unit(normalised))


def test_weights_from_a_file_are_those_of_the_file(resnet, weights_file):
    encoder = ImageEncoder(weights=str(weights_file), pool='average').eval()
    net = resnet.eval()
    for ours, theirs in ((encoder.trunk[0], net.conv1), (encoder.trunk[7], net.layer4)):
        state = theirs.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    images = torch.rand(1, 3, 64, 64)
    normalised = (images - encoder.mean) / encoder.std
    net.fc = torch.nn.Identity()
    torch.testing.assert_close(encoder.pool(encoder.trunk(normalised)), net(normalised))


def test_wrong_files_are_refused(resnet, weights_file, tmp_path):
    with pytest.raises(ConfigError, match=r'no such file.*absent\.safetensors'):
        ImageEncoder(weights=str(tmp_path / 'absent.safetensors'))
    truncated = tmp_path / 'truncated.safetensors'
    truncated.write_bytes(weights_file.read_bytes()[:100_000])
    with pytest.raises(ConfigError, match='not a safetensors file'):
        ImageEncoder(weights=str(truncated))
    text = tmp_path / 'text.safetensors'
    text.write_text('not weights')
    with pytest.raises(ConfigError, match='not a safetensors file'):
        ImageEncoder(weights=str(text))
    foreign = tmp_path / 'foreign.safetensors'
    save_file({'something': torch.zeros(3)}, foreign)
    with pytest.raises(ConfigError, match=r'lacks \d+ of \d+ tensors'):
        ImageEncoder(weights=str(foreign))
    with pytest.raises(ConfigError, match='lacks'):  # of another depth
        ImageEncoder(backbone='resnet34', weights=str(weights_file))


@pytest.mark.parametrize(
    'error', [URLError('no route'), ConnectionResetError('reset'), RuntimeError('invalid hash')]
)
def test_a_failed_download_names_the_other_choices(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', fail)
    with pytest.raises(ConfigError) as caught:
        ImageEncoder(weights='imagenet')
    text = str(caught.value)
    assert 'resnet18 could not be downloaded' in text
    assert 'safetensors file' in text
    assert 'none' in text


def test_downloaded_weights_are_taken(monkeypatch):
    torch.manual_seed(1)
    state = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', lambda *a, **k: state)
    encoder = ImageEncoder(weights='imagenet')
    assert torch.equal(encoder.state_dict()['trunk.0.weight'], state['conv1.weight'])


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'weights': 'imagenet', 'norm': 'group'}, 'group norm'),
        ({'weights': 'some.safetensors', 'norm': 'group'}, 'group norm'),
        ({'weights': 'imagenet', 'normalisation': 'unit'}, 'imagenet weights'),
        ({'stages': 0}, 'stages'),
        ({'stages': 5}, 'stages'),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageEncoder(**settings)


def test_to_float():
    images = torch.randint(256, (2, 5, 6, 3), dtype=torch.uint8)
    out = to_float(images)
    assert out.shape == (2, 3, 5, 6)
    assert out.dtype == torch.float32
    assert torch.equal((out[1, 2] * 255).round().byte(), images[1, :, :, 2])


def test_centre_crop_takes_the_middle():
    images = torch.arange(36.0).reshape(1, 1, 6, 6).expand(2, 3, 6, 6)
    assert torch.equal(centre_crop(images, 2), images[..., 2:4, 2:4])
    assert centre_crop(images, None) is images
    assert torch.equal(centre_crop(images, 6), images)


def test_random_crops_are_windows_one_place_a_sample():
    rows, columns = torch.meshgrid(torch.arange(10.0), torch.arange(12.0), indexing='ij')
    # Each pixel tells its place; two frames and two channels of each sample show the same.
    images = (100 * rows + columns).expand(200, 2, 2, 10, 12)
    torch.manual_seed(0)
    out = random_crop(images, 7)
    assert out.shape == (200, 2, 2, 7, 7)
    corners = out[:, 0, 0, 0, 0]
    places = {divmod(int(corner), 100) for corner in corners}
    assert {top for top, _ in places} == set(range(4))
    assert {left for _, left in places} == set(range(6))
    offset = (100 * rows + columns)[:7, :7]
    assert torch.equal(out, (corners[:, None, None, None, None] + offset).expand_as(out))
    assert random_crop(images, None) is images


def test_colour_jitter_stays_in_its_range():
    torch.manual_seed(0)
    flat = torch.full((500, 2, 3, 4, 4), 0.5)
    out = colour_jitter(flat, 0.3)
    brightness = out[:, 0, 0, 0, 0] / 0.5
    assert 0.7 <= brightness.min() < 0.72
    assert 1.28 < brightness.max() <= 1.3
    assert torch.equal(out, out[:, :1, :1, :1, :1].expand_as(out))  # one draw a sample
    # Contrast scales what differs from the mean.
    edge = flat.clone()
    edge[..., :2] = 0.4
    edge[..., 2:] = 0.6
    out = colour_jitter(edge, 0.3)
    contrast = (out[..., 3] - out[..., 0])[:, 0, 0, 0] / 0.2
    assert 0.7 - 1e-4 <= contrast.min() < 0.72
    assert 1.28 < contrast.max() <= 1.3 + 1e-4
    assert colour_jitter(flat, 0.0) is flat
    extreme = colour_jitter(torch.rand(50, 3, 4, 4), 1.0)
    assert extreme.min() >= 0
    assert extreme.max() <= 1
