"""One driver per run: it holds the lease of the run's folder, or waits until that is free."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from qdet.checkpoint import open_folder
from qdet.errors import ConfigError, LeaseError
from qdet.storage.lease import Hold, hold


@contextmanager
def hold_run(store: str, name: str, *, take_over: bool = False) -> Iterator[Hold]:
    """Hold the lease of a run, or of a sweep, within the block.

    A driver that died lets go at once where its process is seen to be gone from this machine, and otherwise
    when its lease has not been renewed for a while, which this waits for and prints.

    Args:
        store: Folder or URL of all runs.
        name: Of the run.
        take_over: Take it from a driver that still renews it.

    Raises:
        ConfigError: Another driver is writing the run, or the store cannot be written to.
    """
    with ExitStack() as stack:
        try:
            held = stack.enter_context(hold(open_folder(store).child(name), take_over=take_over))
        except LeaseError as error:
            raise ConfigError(str(error)) from error
        except OSError as error:
            raise ConfigError(f"--store.path {store}: cannot be written to ({error})") from error
        yield held
