"""For all tests."""

from __future__ import annotations

import signal

# A shell's background job ignores SIGINT (POSIX sh, 2.11) and every process below inherits that: the tests that press
# Ctrl-C would press it in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
