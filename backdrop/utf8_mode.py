"""File names as UTF-8 whatever the locale: a data set has the same keys on every machine."""

import codecs
import os
import sys


def restart_in_utf8_mode() -> None:
    """Begin the process anew in Python's UTF-8 mode where its file names are of another encoding; else do nothing.

    In the POSIX locale without that mode (`PYTHONUTF8=0`), or in one of Latin-1, names above ASCII cannot be opened or
    have other keys. Bytes that are no UTF-8 go through as they are. Children inherit the mode.
    """
    is_utf8 = codecs.lookup(sys.getfilesystemencoding()).name == "utf-8"
    if is_utf8 or sys.flags.utf8_mode or not sys.executable:
        return
    os.environ["PYTHONUTF8"] = "1"
    # -X too: Python may have been told to read no environment, and would begin anew for ever.
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
