"""Links as users meet them: a profile becomes a timeline, and an engine puts a timeline on an address.

profile (deploy/links/NAME.yaml) --compile(seed, duration)--> timeline (rows of 20 to 100 ms)
trace (the user's own file) ------import------------------^        |
                                                      engine: netem | packet | stream

What is random is drawn when the timeline is compiled, save two things that no row can say, since they
depend on the traffic: which packet is lost, and how long the first packet after a pause waits.
"""
