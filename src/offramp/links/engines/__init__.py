"""The engines: three ways to put one timeline on an address.

netem     the kernel's own queue between two namespaces; most exact, needs CAP_SYS_ADMIN and the qdisc
packet    a TUN device whose packets this process delays and drops; needs CAP_NET_ADMIN
stream    a TCP relay; needs nothing, and has neither packet loss nor slow start

    curve.py       when a direction can have carried so many bytes           pure, no clock
    pipe.py        one direction's queue; loss.py, idle.py what rows cannot say      pure
    link.py        two pipes under one timeline: switch, cut, restore                pure
    courier.py     hands over what is due, on time (alarm.py)                        asyncio
    stream.py      the relay, brake.py      segment.py   listener, emulated segment, dialer
    packet.py      over tun.py         netem.py     over namespace.py, with tc
    choosing.py    which of them works here
"""
