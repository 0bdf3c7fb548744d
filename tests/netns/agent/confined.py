"""Runs a program with what the unit and the DaemonSet leave it: ``python -m …confined ROOT PROGRAM ARGUMENT…``.

Two capabilities, no new privileges, no memory that is writable and executable; and another root folder, unless it is /.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_MDWE = 24, 38, 65
_CAP_NET_ADMIN, _CAP_SYS_ADMIN, _CAP_LAST = 12, 21, 40


def main() -> None:
    """Never returns."""
    root, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if root != "/":
        os.chroot(root)
        os.chdir("/")
    for capability in range(_CAP_LAST + 1):
        if capability not in (_CAP_NET_ADMIN, _CAP_SYS_ADMIN) and libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "PR_CAPBSET_DROP")
    for option in (_PR_SET_NO_NEW_PRIVS, _PR_SET_MDWE):
        if libc.prctl(option, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl {option}")
    # root gains by execve what the bounding set leaves, and no more (capabilities(7))
    os.execv(command[0], command)  # noqa: S606 - an argument list, no shell


if __name__ == "__main__":
    main()
