"""Reading pickles and checkpoints that may come from anywhere, without running what is in them."""

from base.untrusted.info_file import load_info_pickle
from base.untrusted.weights_file import is_skipped, load_weights_file

__all__ = ["is_skipped", "load_info_pickle", "load_weights_file"]
