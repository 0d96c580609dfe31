"""Write rosbag2 bags from the public demonstrations of a real arm (LeRobot v2.1, `cr5_banana`).

    python benchmarks/cr5_bags.py demonstrations/cr5_banana bags/cr5

A Dobot CR5 puts a banana on a plate, 20 times, seen by one camera at about 10 Hz. Each episode
becomes a bag as `recorder_node` would have written it: JPEG frames, joint states, the gripper's
commands, stamped as they were measured. Needs pyarrow and av, of the extra `bench`.
"""

import argparse
from collections.abc import Iterable, Iterator
import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.typesys import get_typestore, Stores
from vqbet_ros.recording.bag import BagOptions, BagWriter, Topic
from vqbet_ros.resources import how_to_install, named
from vqbet_ros.spec import RobotSpec

BEGIN_NS = 1_700_000_000_000_000_000  # the demonstrations do not say on which day they were made
EPISODE_NS = 3_600_000_000_000  # one begins each hour
JPEG_QUALITY = 95
SPEC = 'config/robots/cr5.yaml'
TASK = 'put the banana on the plate'

STORE = get_typestore(Stores.ROS2_HUMBLE)


def message(kind: str, /, **fields: Any) -> bytes:
    """Serialise a message of one type."""
    kind = kind.replace('/', '/msg/')
    return bytes(STORE.serialize_cdr(STORE.types[kind](**fields), kind))


def header(stamp_ns: int, frame_id: str = '') -> Any:
    """Make a header."""
    time = STORE.types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 1_000_000_000))
    return STORE.types['std_msgs/msg/Header'](stamp=time, frame_id=frame_id)


def frames(video: Path) -> Iterator[NDArray[np.uint8]]:
    """Decode a video to (H, W, 3) BGR."""
    import av

    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format='bgr24')


def write_bag(
    folder: Path,
    columns: dict[str, NDArray[Any]],
    pictures: Iterable[NDArray[np.uint8]],
    spec: RobotSpec,
    start_ns: int,
) -> None:
    """Write one episode as a bag.

    Args:
        folder: The bag.
        columns: `timestamp` in s, `observation.state` (T, 6) in rad, `action` (T, 7).
        pictures: T of (H, W, 3) BGR.
        spec: The robot.
        start_ns: When the episode began.
    """
    camera, joints = spec.cameras[0], spec.state[0]
    gripper = spec.action.gripper
    assert gripper is not None  # noqa: S101 - the shipped spec has one
    assert gripper.topic is not None  # noqa: S101
    assert gripper.type is not None  # noqa: S101
    custom = {
        'vqbet.spec': spec.to_yaml(),
        'vqbet.task': TASK,
        'vqbet.outcome': 'success',
    }
    writer = BagWriter(folder, BagOptions(), custom)
    image, state, command = (
        writer.add_topic(Topic(topic, kind))
        for topic, kind in (
            (camera.topic, camera.type),
            (joints.topic, joints.type),
            (gripper.topic, gripper.type),
        )
    )
    for row, pixels in enumerate(pictures):
        stamp_ns = start_ns + round(float(columns['timestamp'][row]) * 1e9)
        position = columns['observation.state'][row].astype(np.float64)
        action = columns['action'][row].astype(np.float64)  # six velocities, the gripper
        jpeg = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        none = np.zeros(0)
        payloads = (
            (
                state,
                message(
                    'sensor_msgs/JointState',
                    header=header(stamp_ns),
                    name=list(joints.names),
                    position=position,
                    velocity=action[:6],
                    effort=none,
                ),
            ),
            (
                image,
                message(
                    'sensor_msgs/CompressedImage',
                    header=header(stamp_ns, 'camera'),
                    format='jpeg',
                    data=jpeg.reshape(-1),
                ),
            ),
            (
                command,
                message(
                    'std_msgs/Float64MultiArray',
                    layout=STORE.types['std_msgs/msg/MultiArrayLayout'](dim=[], data_offset=0),
                    data=action[6:],
                ),
            ),
        )
        for channel, payload in payloads:
            writer.write(channel, payload, stamp_ns, stamp_ns, row)
    writer.close(custom)


def main() -> None:
    """Write the bags."""
    parser = argparse.ArgumentParser(description='Write bags from cr5_banana.')
    parser.add_argument('source', metavar='DIR', type=Path, help='the LeRobot dataset')
    parser.add_argument('bags', metavar='BAGS', type=Path, help='folder for the bags')
    parser.add_argument('--episodes', metavar='N', type=int, help='the first N (default: all)')
    args = parser.parse_args()
    missing = [name for name in ('av', 'pyarrow') if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f'needs {" and ".join(missing)}: {how_to_install("bench")}')
    import pyarrow.parquet as parquet  # --help does without it

    spec = RobotSpec.from_yaml(named(SPEC))
    files = sorted(args.source.glob('data/*/*.parquet'))[: args.episodes]
    if not files:
        parser.error(f'{args.source} holds no data/*/*.parquet')
    for index, file in enumerate(files):
        table = parquet.read_table(file)
        columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
        video = next(args.source.glob(f'videos/*/*/{file.stem}.mp4'))
        folder = args.bags / f'cr5_{index:02d}'
        write_bag(folder, columns, frames(video), spec, BEGIN_NS + index * EPISODE_NS)
        print(f'{folder}: {table.num_rows} frames', flush=True)


if __name__ == '__main__':
    main()
