"""VQ-BeT for ROS 2: learn a manipulation task from demonstrations, run it at control rate."""

__version__ = '0.1.0'
