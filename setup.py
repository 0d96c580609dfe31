"""Build the package: `colcon build` and `pip install` both read this file."""

import os
from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

PACKAGE = 'vqbet_ros'
# What `vqbet export onnx` writes with, and compares with.
ONNX = ['onnx>=1.16', 'onnxruntime>=1.18', 'onnxscript>=0.2', 'torch>=2.6']
VERSION = ElementTree.parse(Path(__file__).resolve().parent / 'package.xml').findtext('version')


def share_files(folder, suffix=''):
    """List (target, sources) below share/ for every file of a folder, subfolders kept."""
    for directory, folders, names in os.walk(folder):
        folders.sort()
        sources = [
            os.path.join(directory, name) for name in sorted(names) if name.endswith(suffix)
        ]
        if sources and '__pycache__' not in directory:
            yield f'share/{PACKAGE}/{directory}', sources


setup(
    name=PACKAGE,
    version=VERSION,
    description='VQ-BeT for ROS 2: learn a task from demonstrations, run it at control rate',
    license='Apache-2.0',
    maintainer='The vqbet_ros authors',
    maintainer_email='maintainers@example.org',
    python_requires='>=3.10',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        *share_files('launch', suffix='.launch.py'),
        *share_files('config'),
        *share_files('models'),
    ],
    zip_safe=True,
    install_requires=[
        'PyYAML>=6.0.1',
        'joblib>=1.3',
        'lz4>=4.4',
        'mcap>=1.2',
        'numpy>=1.26',
        'opencv-python-headless>=4.9',
        'rosbags>=0.11',
        'safetensors>=0.4.3',
        'setuptools>=59.6',
        'torch>=2.4',
        'torchvision>=0.19',
        'zstandard>=0.25',
    ],
    extras_require={
        'ros': [
            'ros-diagnostic-msgs>=5.5',
            'ros-geometry-msgs>=5.5',
            'ros-kilted-rclpy[fastrtps]>=9.1',
            'ros-lifecycle-msgs>=2.3',
            'ros-rcl-interfaces>=2.3',
            'ros-sensor-msgs>=5.5',
            'ros-std-msgs>=5.5',
            'ros-std-srvs>=5.5',
            'ros-trajectory-msgs>=5.5',
        ],
        # What `vqbet bench data` and benchmarks/ read besides: videos and Parquet files; and what
        # reads the bags of `vqbet bench record`.
        'bench': ['av>=12.0', 'mcap-ros2-support>=0.5.6', 'pyarrow>=15.0'],
        'onnx': ONNX,
        # Several processes that train one policy: accelerate launch.
        'distributed': ['accelerate>=1.0'],
        # gym-pusht asks for opencv-python, a second cv2 that needs libGL (see CONTRIBUTING.md),
        # and for pygame, which has no wheels for Python 3.14: pygame-ce is the same module.
        'sim': ['gym-pusht>=0.1.8', 'pygame-ce>=2.5 ; python_version >= "3.14"'],
        'train': ['matplotlib>=3.8', 'rich>=13.0', 'tensorboard>=2.17', 'zarr>=2.18'],
        'test': [
            'accelerate>=1.0',
            'hypothesis>=6.100',
            'mcap-ros2-support>=0.5.6',
            'mypy>=2.4',
            *ONNX,
            'pytest>=8.0',
            'pytest-xdist>=3.6',
            'ruff>=0.17',
            'types-PyYAML>=6.0.12',
            'vector-quantize-pytorch>=1.20',
        ],
    },
    entry_points={
        'console_scripts': [
            'policy_node = vqbet_ros.ros.policy_node:main',
            'recorder_keys = vqbet_ros.ros.recorder_keys:main',
            'recorder_node = vqbet_ros.ros.recorder_node:main',
            'sim_node = vqbet_ros.ros.sim_node:main',
            'vqbet = vqbet_ros.cli.main:main',
        ],
    },
)
