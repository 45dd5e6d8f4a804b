"""Run batch jobs under CAM policies, and hear what happened."""
