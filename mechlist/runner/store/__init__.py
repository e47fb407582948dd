"""The activation store: content-addressed, in RAM over checksummed shards on disk."""

from mechlist.runner.store.store import ActivationStore, default_directory

__all__ = ["ActivationStore", "default_directory"]
