"""Does an engine do what the timeline says? Measured from outside, the bare path first.

client --(link run, a process of its own)--> peer       probing.py: both ends, blocking sockets
timelines that show one quantity each                    rehearsals.py, pure
what was measured against what the rows say              checks.py, pure
the order of it all                                      session.py
"""
