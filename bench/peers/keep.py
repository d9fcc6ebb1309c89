"""The process between the run and one server of its own: whatever ends the run, server and directory go with it.

    python -I -S keep.py DIRECTORY STOP_SIGNAL USER ARGV...

It starts ARGV as USER (empty: as itself) and waits for the end of its standard input, which is the end of the run, or
for SIGTERM. Then it sends STOP_SIGNAL to the server, waits for it and removes DIRECTORY. Should it be killed itself,
the kernel ends the server. Standard library only; in a session of its own, so that Ctrl-C goes to the run alone.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1
GRACE_S = 10.0


def main() -> None:
    """Run the server until the run is over."""
    directory, stop_signal, user, *argv = sys.argv[1:]
    libc = ctypes.CDLL(None)

    def die_with_keeper() -> None:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell starts what runs in its background with it ignored
        # After the change of user, which would undo it.
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGQUIT), 0, 0, 0)

    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    os.set_blocking(read_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    # A change of user alone would keep root's groups.
    whom = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": ()} if user else {}
    with open(os.path.join(directory, "server.log"), "ab") as log:
        server = subprocess.Popen(  # type: ignore[call-overload]
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            start_new_session=True,
            preexec_fn=die_with_keeper,
            **whom,
        )
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.flush()
    poller = select.poll()
    poller.register(0, select.POLLIN)
    poller.register(read_end, select.POLLIN)
    while server.poll() is None:
        ready = [fd for fd, _ in poller.poll()]
        if 0 in ready and not os.read(0, 4096):
            break
        if read_end in ready and set(os.read(read_end, 4096)) - {signal.SIGCHLD}:
            break
    if server.poll() is None:
        os.killpg(server.pid, getattr(signal, stop_signal))
        try:
            server.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    else:
        with open(os.path.join(directory, "server.log"), errors="replace") as said:
            sys.stderr.write(f"{argv[0]} ended with {server.returncode}: {said.read()[-500:]}\n")
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
