"""Training: labelled images in, encoders with a head for each width out."""

from .task import Trained, compact, train, unfitted, usual_recipe

__all__ = ["Trained", "compact", "train", "unfitted", "usual_recipe"]
