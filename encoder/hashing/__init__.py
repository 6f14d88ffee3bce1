"""From features to bits: the methods, and the heads that they fit."""
