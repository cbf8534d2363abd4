"""Beats between the nodes, over several paths."""
