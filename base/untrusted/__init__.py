"""Reading pickles and checkpoints that may come from anywhere, without running what is in them."""

from base.untrusted.info_file import info_from_bytes, load_info_pickle
from base.untrusted.weights_file import is_skipped, load_weights_file

__all__ = ["info_from_bytes", "is_skipped", "load_info_pickle", "load_weights_file"]
