"""The VQ-BeT policy in torch: tokenizer, vision, trunk, heads, checkpoint, engine. No ROS."""
