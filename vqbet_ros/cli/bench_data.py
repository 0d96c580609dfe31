"""`vqbet bench data`: how fast bags become a dataset, and how fast a training reads it."""

import argparse
from collections.abc import Callable
from pathlib import Path
import shutil
import tempfile
import time
from typing import Any

from vqbet_ros.cli.figures import write_json

HISTORY, BATCH = 5, 64
SIDE_PX = 96  # of the frames that a training reads, as PushT's
TRAINING_STEPS = 20  # of one frame a sample, where the computation hides the least
KEYFRAME_EVERY = 2  # of the video: two frames, as LeRobot's videos, made for random access


def add_parser(subparsers: Any) -> None:
    """Add the bench to `vqbet bench`."""
    parser = subparsers.add_parser(
        'data',
        help='preparing bags and reading windows',
        description='Prepare bags (JPEG frames of 640x480 at 10 Hz, joints at 50 Hz) with one and '
        'with two processes, beside a bare loop of rosbags and cv2.imdecode over them; read '
        f'windows of {HISTORY} frames in batches of {BATCH} from a dataset of {SIDE_PX}x{SIDE_PX} '
        "frames, beside random access to a video of the same frames (needs the extra 'bench'); "
        'take steps of a training on that dataset, and see how long they wait for it.',
    )
    parser.add_argument(
        '--bags',
        metavar='DIR',
        type=Path,
        help='bags to prepare, with their spec inside (default: some are made)',
    )
    parser.add_argument(
        '--seconds',
        metavar='S',
        type=float,
        default=300.0,
        help='length of each of the four bags that are made: processes take about 1.5 s to start, '
        'which counts (default: %(default)s, 12 000 frames in 0.6 GB)',
    )
    parser.add_argument(
        '--repeats',
        metavar='N',
        type=int,
        default=3,
        help='how often bags are prepared; the best time counts (default: %(default)s)',
    )
    parser.add_argument(
        '--folder',
        metavar='DIR',
        type=Path,
        help='where to write what is measured (default: the folder of temporary files)',
    )
    parser.add_argument('--json', metavar='FILE', type=Path, help='write the figures here')


def run(args: argparse.Namespace) -> int:
    """Measure; returns the exit status."""
    from vqbet_ros.cli.bench_data_bags import write_bags
    from vqbet_ros.cli.bench_data_training import training_figures
    from vqbet_ros.cli.bench_machine import machine
    from vqbet_ros.data.bag_folders import find_bags
    from vqbet_ros.data.store import Dataset

    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        if args.bags is None:
            write_bags(folder / 'bags', args.seconds)
        bags = find_bags([args.bags or folder / 'bags'])
        figures = {
            **machine(),
            **prepare_figures(bags, folder, args.repeats),
            **window_figures(folder),
            **training_figures(Dataset.open(folder / 'windows'), 1, BATCH, TRAINING_STEPS),
        }
    for key, value in figures.items():
        print(f'{key:<30}{value:.4g}' if isinstance(value, float) else f'{key:<30}{value}')
    write_json(figures, args.json)
    return 0


def prepare_figures(bags: list[Path], folder: Path, repeats: int) -> dict[str, Any]:
    """Measure preparing; files are in memory before it counts, processes start while it does."""
    from joblib.externals.loky import get_reusable_executor
    from vqbet_ros.data.prepare import Preparation
    from vqbet_ros.errors import VqbetError

    def prepared(name: str, jobs: int, some: list[Path]) -> int:
        with Preparation(some, folder / name) as preparation:
            for done in preparation.run(jobs):
                if done.status != 'added':
                    raise VqbetError(f'{done.bag}: {done.error or "holds no episode"}')
            return preparation.num_frames

    def measured(name: str, jobs: int) -> tuple[float, float]:
        rates = _rates(lambda: prepared(name, jobs, bags))
        shutil.rmtree(folder / name)
        get_reusable_executor().shutdown()  # so that the next ones have to start as well
        return rates

    bare_loop(bags)
    prepared('warm_up', 1, bags[:1])
    runs = [
        (_rates(lambda: bare_loop(bags)), measured('one', 1), measured('two', 2))
        for _ in range(repeats)
    ]
    # The best of each: whatever else the machine does can only slow it down.
    (bare, bare_cpu), (one, one_cpu), (two, _) = (
        tuple(map(max, zip(*rates, strict=True))) for rates in zip(*runs, strict=True)
    )
    return {
        'bags': len(bags),
        'repeats': repeats,
        'bare_frames_per_s': bare,
        'prepare_frames_per_s': one,
        'prepare_two_frames_per_s': two,
        'prepare_to_bare': one / bare,
        'prepare_two_to_bare': two / bare,
        # What other programs on the machine do not disturb.
        'bare_frames_per_cpu_s': bare_cpu,
        'prepare_frames_per_cpu_s': one_cpu,
        'prepare_to_bare_cpu': one_cpu / bare_cpu,
    }


def _rates(work: Callable[[], int]) -> tuple[float, float]:
    """Return how many things a second some work does: by the clock, by this process's CPU."""
    started_s, cpu_s = time.perf_counter(), time.process_time()
    count = work()
    return count / (time.perf_counter() - started_s), count / (time.process_time() - cpu_s)


def bare_loop(bags: list[Path]) -> int:
    """Read and decode every message of bags with rosbags and cv2 alone; returns the frames."""
    import cv2
    from rosbags.rosbag2 import Reader
    from rosbags.typesys import get_typestore, Stores

    store = get_typestore(Stores.ROS2_HUMBLE)
    frames = 0
    for bag in bags:
        with Reader(bag) as reader:
            for connection, _, payload in reader.messages():
                message: Any = store.deserialize_cdr(payload, connection.msgtype)
                if connection.msgtype == 'sensor_msgs/msg/CompressedImage':
                    cv2.imdecode(message.data, cv2.IMREAD_COLOR)
                    frames += 1
                elif connection.msgtype == 'sensor_msgs/msg/Image':
                    frames += 1
    return frames


def window_figures(folder: Path, episodes: int = 10, steps: int = 250) -> dict[str, Any]:
    """Measure random windows of a dataset, and of a video of the same frames."""
    import numpy as np
    import torch
    from vqbet_ros.cli.bench_data_bags import scene
    from vqbet_ros.config import ModelConfig, TrainConfig
    from vqbet_ros.data.episode import Episode
    from vqbet_ros.data.store import Dataset
    from vqbet_ros.data.windows import batch_of, windows
    from vqbet_ros.data.writer import DatasetWriter
    from vqbet_ros.resources import resource
    from vqbet_ros.spec import RobotSpec
    from vqbet_ros.training.data import load_data

    spec = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
    state = np.zeros((steps, 2), np.float32)
    with DatasetWriter(folder / 'windows', spec, 'made up') as writer:
        for episode in range(episodes):
            images = np.stack([scene(SIDE_PX, SIDE_PX, episode * steps + k) for k in range(steps)])
            writer.add(Episode(state + episode, state, {'top': images}))
    dataset = Dataset.open(folder / 'windows')
    config = TrainConfig(model=ModelConfig(history=HISTORY), val_fraction=0.0)
    data = load_data(dataset, config, torch.device('cpu'))

    def rows_of(step: int) -> Any:
        frames = data.train.take(batch_of(step, len(data.train), BATCH, seed=0))
        return windows(frames, HISTORY, config.model.chunk).observed  # (B, h)

    data.images(rows_of(0))
    batches, started_s = 50, time.perf_counter()
    for step in range(batches):
        data.images(rows_of(step))
    rate = batches * BATCH / (time.perf_counter() - started_s)
    return {
        'windows_per_s': rate,
        'batch_ms': BATCH / rate * 1e3,
        **video_figures(folder / 'frames.mp4', dataset.images['top'], rows_of, rate),
    }


def video_figures(path: Path, images: Any, rows_of: Any, store_rate: float) -> dict[str, Any]:
    """Measure the same windows from an H.264 video; nothing without PyAV."""
    try:
        import av
    except ModuleNotFoundError:
        return {'video_windows_per_s': None, 'video': "skipped: needs av, of the extra 'bench'"}
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=10, options={'g': str(KEYFRAME_EVERY)})
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = 'yuv420p'
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
        container.mux(stream.encode())
    read, started_s = 0, time.perf_counter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for rows in rows_of(0):
            video_window(container, stream, rows)
            read += 1
    rate = read / (time.perf_counter() - started_s)
    return {'video_windows_per_s': rate, 'windows_to_video': store_rate / rate}


def video_window(container: Any, stream: Any, rows: Any) -> list[Any]:
    """Decode the frames of one window: seek to the keyframe before it, then go on."""
    per_frame = 1 / (stream.average_rate * stream.time_base)
    container.seek(int(int(rows[0]) * per_frame), stream=stream, backward=True)
    found: dict[int, Any] = {}
    for frame in container.decode(stream):
        number = round(frame.pts / per_frame)
        if number >= rows[0]:
            found[number] = frame.to_ndarray(format='rgb24')
        if number >= rows[-1]:
            break
    return [found[int(row)] for row in rows]
