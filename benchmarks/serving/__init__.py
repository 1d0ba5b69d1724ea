"""What a request costs: offramp beside a bare gRPC server and the servers that people use.

network     the same ONNX files and inputs for all; decisions fixed by construction
peers/      one small server a file, each against its peer's public API, in its own environment (install)
systems     how each is started: command, environment, protocol
loads       the load generator, a process of its own on another core; clients/ one file a protocol
measuring   CPU time and memory of a server's processes
w1, w2      one tier; three tiers
"""
