"""How many file handles this process may hold, of which every connection takes one."""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger(__name__)
_OTHERS = 256  # for the bundle, uplinks, the metrics page and whatever libraries open


def allow_files(connections: int) -> None:
    """Raise this process's own limit so that so many connections fit, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHERS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_within(wanted: int) -> int:
    """So many connections, or those for which this process may hold file handles; a warning where these are fewer.

    A server that runs out of handles can open nothing else either.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or wanted + _OTHERS <= soft:
        return wanted
    fewer = max(soft - _OTHERS, 1)
    text = "limits.connections is %d, but only %d file handles are allowed here: taking %d"
    logger.warning(text, wanted, soft, fewer)
    return fewer
