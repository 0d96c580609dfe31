"""Start the simulated PushT robot."""

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
                description='Spec of the robot to play (YAML file): pusht or pusht_keypoints.',
            ),
            DeclareLaunchArgument(
                'seed',
                default_value='100000',
                description='Seed of the first episode; each ~/reset takes the next.',
            ),
            DeclareLaunchArgument(
                'params',
                default_value=PathJoinSubstitution([share, 'config', 'nodes', 'sim.yaml']),
                description='Parameter file (YAML) with everything else; the other arguments of '
                'this launch file win over it.',
            ),
            DeclareLaunchArgument(
                'log_level', default_value='info', description='debug, info, warn, error or fatal.'
            ),
            Node(
                package='vqbet_ros',
                executable='sim_node',
                name='sim_node',
                output='screen',
                parameters=[
                    ParameterFile(LaunchConfiguration('params'), allow_substs=True),
                    {
                        'spec': ParameterValue(LaunchConfiguration('spec'), value_type=str),
                        'seed': ParameterValue(LaunchConfiguration('seed'), value_type=int),
                    },
                ],
                arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
                on_exit=_shutdown,
            ),
        ]
    )
