"""Names of the ROS messages that are understood, and of the numbers that make up a pose."""

from typing import Final

IMAGE: Final = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE: Final = 'sensor_msgs/msg/CompressedImage'
JOINT_STATE: Final = 'sensor_msgs/msg/JointState'
FLOAT64_MULTI_ARRAY: Final = 'std_msgs/msg/Float64MultiArray'
POSE_STAMPED: Final = 'geometry_msgs/msg/PoseStamped'
TWIST_STAMPED: Final = 'geometry_msgs/msg/TwistStamped'
JOINT_TRAJECTORY: Final = 'trajectory_msgs/msg/JointTrajectory'
JOY: Final = 'sensor_msgs/msg/Joy'

POSITION = ('x', 'y', 'z')
# The first two columns of the rotation matrix (Zhou et al. 2019); rRC is row R, column C.
ROTATION = ('r11', 'r21', 'r31', 'r12', 'r22', 'r32')
TWIST = ('vx', 'vy', 'vz', 'wx', 'wy', 'wz')


def pose_channels(name: str) -> tuple[str, ...]:
    """Name the 9 numbers of a pose: position, then the rotation."""
    return tuple(f'{name}/{part}' for part in (*POSITION, *ROTATION))


def twist_channels(name: str) -> tuple[str, ...]:
    """Name the 6 numbers of a twist: linear, then angular velocity."""
    return tuple(f'{name}/{part}' for part in TWIST)
