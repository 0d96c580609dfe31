"""Camera frames to feature vectors: a torchvision ResNet with a pooling that keeps positions.

Legend: N frames, F features, K keypoints, h x w the feature map.
"""

from http.client import HTTPException
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
import torch
from torch import nn, Tensor
from torch.nn import functional as F
import torchvision
from vqbet_ros.errors import ConfigError
from vqbet_ros.policy.rvq import in_float32

Backbone = Literal['resnet18', 'resnet34', 'resnet50']
# https://pytorch.org/vision/stable/models.html
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SpatialSoftmax(nn.Module):
    """Turn K feature maps into the K expected image positions (Finn et al. 2016)."""

    def __init__(self, channels: int, keypoints: int) -> None:
        """Reduce `channels` maps to `keypoints` maps first."""
        super().__init__()
        self.reduce = nn.Conv2d(channels, keypoints, kernel_size=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, channels, h, w) to (N, 2K): x and y of each keypoint in [-1, 1]."""
        maps = self.reduce(maps).float()
        height, width = maps.shape[-2:]
        y = torch.linspace(-1.0, 1.0, height, device=maps.device)
        x = torch.linspace(-1.0, 1.0, width, device=maps.device)
        weights = maps.flatten(2).softmax(-1).unflatten(2, (height, width))  # (N, K, h, w)
        with in_float32(maps):  # half precision would round positions to a pixel and more
            expected = torch.stack([weights.sum(2) @ x, weights.sum(3) @ y], dim=-1)  # (N, K, 2)
        return expected.flatten(1)


class ImageEncoder(nn.Module):
    """ResNet trunk, pooling, and a linear layer with ReLU."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone = 'resnet18',
        weights: str = 'none',
        stages: int = 4,
        pool: Literal['average', 'spatial_softmax'] = 'spatial_softmax',
        keypoints: int = 32,
        norm: Literal['batch', 'group'] = 'batch',
        normalisation: Literal['imagenet', 'unit'] = 'imagenet',
        features: int = 64,
    ) -> None:
        """Build the encoder.

        Args:
            backbone: Depth of the ResNet.
            weights: `none` (random), `imagenet` (downloaded by torchvision), or the path of a
                safetensors file with the state of a torchvision ResNet.
            stages: How many of the four residual stages are used; fewer is faster and keeps a
                finer feature map, which suits small images.
            pool: Average pooling, or spatial softmax.
            keypoints: Keypoints of the spatial softmax.
            norm: Batch norm, or group norm with 16 channels a group, which needs weights `none`.
            normalisation: `imagenet` subtracts ImageNet's mean and divides by its deviation;
                `unit` leaves pixels in [0, 1].
            features: Width of the output.

        Raises:
            ValueError: The arguments contradict each other.
            ConfigError: Weights that cannot be had; nothing is substituted for them.
        """
        super().__init__()
        if not 1 <= stages <= 4:
            raise ValueError(f'stages must be 1 to 4, got {stages}')
        if weights != 'none' and norm == 'group':
            raise ValueError('group norm cannot take pretrained weights: use norm: batch')
        if weights == 'imagenet' and normalisation != 'imagenet':
            raise ValueError('imagenet weights expect normalisation: imagenet')
        norm_layer = nn.BatchNorm2d if norm == 'batch' else _group_norm
        net = _resnet(backbone, weights == 'imagenet', norm_layer)
        if weights not in ('none', 'imagenet'):
            _load_file(net, Path(weights))
        residual = [net.layer1, net.layer2, net.layer3, net.layer4][:stages]
        self.trunk = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, *residual)
        channels = (64, 128, 256, 512)[stages - 1] * (4 if backbone == 'resnet50' else 1)
        if pool == 'spatial_softmax':
            self.pool: nn.Module = SpatialSoftmax(channels, keypoints)
            channels = 2 * keypoints
        else:
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.out = nn.Linear(channels, features)
        imagenet = normalisation == 'imagenet'
        mean = torch.tensor(IMAGENET_MEAN if imagenet else (0.0, 0.0, 0.0))
        std = torch.tensor(IMAGENET_STD if imagenet else (1.0, 1.0, 1.0))
        self.register_buffer('mean', mean.reshape(3, 1, 1), persistent=False)
        self.register_buffer('std', std.reshape(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) float in [0, 1] to features (N, F)."""
        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return F.relu(self.out(self.pool(self.trunk(images))))


def to_float(images: Tensor) -> Tensor:
    """Turn uint8 (..., H, W, 3) into float (..., 3, H, W) in [0, 1]."""
    return images.movedim(-1, -3).float() / 255.0


def middle(side: int, crop: int | None) -> slice:
    """Return the middle `crop` of a side's pixels; None takes all."""
    if crop is None:
        return slice(None)
    first = (side - crop) // 2
    return slice(first, first + crop)


def centre_crop(images: Tensor, crop: int | None) -> Tensor:
    """Cut the middle crop x crop out of (..., 3, H, W); None cuts nothing."""
    if crop is None:
        return images
    return images[..., middle(images.shape[-2], crop), middle(images.shape[-1], crop)]


def random_crop(images: Tensor, crop: int | None) -> Tensor:
    """Cut crop x crop at a random place out of (B, ..., 3, H, W), one place for each of B."""
    if crop is None:
        return images
    batch, height, width = images.shape[0], images.shape[-2], images.shape[-1]
    tops = torch.randint(height - crop + 1, (batch,)).tolist()
    lefts = torch.randint(width - crop + 1, (batch,)).tolist()
    return torch.stack(
        [
            image[..., top : top + crop, left : left + crop]
            for image, top, left in zip(images, tops, lefts, strict=True)
        ]
    )


def colour_jitter(images: Tensor, strength: float) -> Tensor:
    """Scale brightness and contrast of (B, ..., 3, H, W) by up to 1 ± strength, one draw per B."""
    if strength == 0.0:
        return images
    shape = (images.shape[0],) + (1,) * (images.dim() - 1)
    draw = 1.0 + strength * (2.0 * torch.rand((2, *shape), device=images.device) - 1.0)
    grey = images.mean(dim=(-3, -2, -1), keepdim=True)
    return ((images - grey) * draw[0] + grey * draw[1]).clamp(0.0, 1.0)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // 16, channels)


def _resnet(backbone: Backbone, imagenet: bool, norm_layer: object) -> torchvision.models.ResNet:
    build = getattr(torchvision.models, backbone)
    if not imagenet:
        return build(norm_layer=norm_layer)
    try:
        return build(weights='DEFAULT', norm_layer=norm_layer)
    # urllib's errors are OSErrors, a broken connection may be an HTTPException, and torch reports
    # a file with another hash as a RuntimeError.
    except (OSError, HTTPException, RuntimeError) as error:
        raise ConfigError(
            f'ImageNet weights of {backbone} could not be downloaded: {error}\n'
            'Use vision.weights: <path of a safetensors file>, or vision.weights: none to train '
            'from scratch.'
        ) from error


def _load_file(net: torchvision.models.ResNet, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f'vision.weights: no such file: {path} (expected a safetensors file)')
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f'vision.weights: {path} is not a safetensors file: {error}') from error
    wanted = {key: value.shape for key, value in net.state_dict().items() if 'fc.' not in key}
    bad = [key for key, shape in wanted.items() if key not in state or state[key].shape != shape]
    if bad:
        raise ConfigError(
            f'vision.weights: {path} lacks {len(bad)} of {len(wanted)} tensors of the backbone '
            f'(first: {bad[0]})'
        )
    net.load_state_dict({key: state[key] for key in wanted}, strict=False)
