"""A server that ends with whoever started it, even by SIGKILL."""

from __future__ import annotations

# Ends with the server, or ends the server when the other end of its input is closed, as the system
# does for whoever dies. (prctl's death signal would also strike when only a thread ends.)
_GUARD = """
exec 3<&0
"$@" 3<&- </dev/null &
server=$!
trap 'kill $server' TERM
{ read -r _ <&3; kill -9 $server 2>/dev/null; } &
guard=$!
wait $server
status=$?
# a signal ends the wait before the server has ended
while kill -0 $server 2>/dev/null; do wait $server; status=$?; done
kill $guard 2>/dev/null
exit $status
"""


def guarded(*command: str) -> list[str]:
    """A command line to be started with a pipe as its standard input: whoever holds the other end
    of it is who the server ends with. SIGTERM is passed on."""
    return ["sh", "-c", _GUARD, "sh", *command]
