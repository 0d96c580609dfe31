"""Start the recorder; `recorder_keys` in another terminal, a joystick or services command it.

Robots on Fast DDS that send images: export FASTRTPS_DEFAULT_PROFILES_FILE (from Kilted on
FASTDDS_DEFAULT_PROFILES_FILE) with the path of this package's config/fastdds.xml first; this file
changes nothing of the middleware's settings.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.substitutions import FindPackageShare


def _shutdown(event: ProcessExited, context: LaunchContext) -> Shutdown | None:
    # Everything here is required. A second shutdown while the first is under way is an error.
    return None if context.is_shutdown else Shutdown(reason=f'{event.process_name} ended')


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the node."""
    share = FindPackageShare('vqbet_ros')
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'spec',
                default_value=PathJoinSubstitution([share, 'config', 'robots', 'pusht.yaml']),
                description="The robot's spec (YAML file): which topics are recorded, and what is "
                'expected of them.',
            ),
            DeclareLaunchArgument(
                'root',
                default_value='recordings',
                description='Folder of the episodes; made if it is not there.',
            ),
            DeclareLaunchArgument(
                'task', default_value='', description='What is demonstrated; kept in the bags.'
            ),
            DeclareLaunchArgument(
                'operator', default_value='', description='Who demonstrates it; kept in the bags.'
            ),
            DeclareLaunchArgument(
                'goal', default_value='', description='Goal of the episodes; kept in the bags.'
            ),
            DeclareLaunchArgument(
                'joy_topic',
                default_value='',
                description='Joystick (sensor_msgs/Joy) whose buttons command the recorder; '
                'empty: none.',
            ),
            DeclareLaunchArgument(
                'recover_on_start',
                default_value='false',
                description='Recover the unfinished episodes of a killed recorder first.',
            ),
            DeclareLaunchArgument(
                'use_sim_time',
                default_value='false',
                description='Stamp with /clock instead of the time of arrival.',
            ),
            DeclareLaunchArgument(
                'params',
                default_value=PathJoinSubstitution([share, 'config', 'nodes', 'record.yaml']),
                description='Parameter file (YAML) with everything else; the other arguments of '
                'this launch file win over it.',
            ),
            DeclareLaunchArgument(
                'namespace',
                default_value='',
                description="Namespace of the node and its services; the spec's topics are "
                'absolute and stay as they are.',
            ),
            DeclareLaunchArgument(
                'log_level', default_value='info', description='debug, info, warn, error or fatal.'
            ),
            Node(
                package='vqbet_ros',
                executable='recorder_node',
                name='recorder_node',
                namespace=LaunchConfiguration('namespace'),
                output='screen',
                parameters=[
                    ParameterFile(LaunchConfiguration('params'), allow_substs=True),
                    {
                        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
                        for name, kind in (
                            ('spec', str),
                            ('root', str),
                            ('task', str),
                            ('operator', str),
                            ('goal', str),
                            ('joy_topic', str),
                            ('recover_on_start', bool),
                            ('use_sim_time', bool),
                        )
                    },
                ],
                arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
                on_exit=_shutdown,
            ),
        ]
    )
