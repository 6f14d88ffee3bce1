"""Backbones: which there are, where their weights come from, and what an image becomes for them."""
