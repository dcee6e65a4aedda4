"""A notebook without its server and its browser: IPython's shell in this process, and what its cells show."""
import builtins
import contextlib
import io
import sys

import pytest

from tests import llmlite


class Shown:
    """What a cell has shown: `out` as text; `displays`, each as (data, display id, whether it changes one)."""

    def __init__(self, out, displays, result):
        self.out, self.displays, self.result = out, displays, result

    @property
    def markdown(self):
        """All states of what was displayed as Markdown."""
        return [data["text/markdown"] for data, _, _ in self.displays]


class Cells:
    """`run` a cell's source; `names` are the notebook's variables."""

    def __init__(self, shell):
        self.shell, self.names = shell, shell.user_ns
        self.names["llmlite"] = llmlite

    def run(self, source):
        out, displays = io.StringIO(), []

        def publish(data, metadata=None, *, transient=None, update=False, **_):
            displays.append((data, (transient or {}).get("display_id"), update))

        self.shell.display_pub.publish = publish
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            result = self.shell.run_cell(source, store_history=True)
        return Shown(out.getvalue(), displays, result)


@contextlib.contextmanager
def cells(folder, terminal=False):
    """A shell as notebooks have it, or IPython's own in a terminal; the process is as before in the end."""
    pytest.importorskip("IPython")
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.terminal.interactiveshell import TerminalInteractiveShell
    from traitlets.config import Config
    config = Config()
    config.HistoryManager.enabled = False  # or a thread writes it
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.ipython_dir = str(folder)
    kind = TerminalInteractiveShell if terminal else InteractiveShell
    before = dict(sys.modules), sys.excepthook, sys.displayhook
    vars(builtins).pop("_", None)  # doctest's, for which IPython would leave its own out
    shell = kind.instance(config=config)
    try:
        yield Cells(shell)
    finally:
        shell.restore_sys_module_state()
        kind.clear_instance()
        sys.modules["__main__"], sys.excepthook, sys.displayhook = before[0]["__main__"], *before[1:]
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):  # they hold frames, and these sockets
            vars(sys).pop(name, None)
