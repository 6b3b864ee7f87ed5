"""Weights in files: ours, and those that people bring or take away; every tensor is accounted for."""
