"""Worlds to drive without ROS."""
