"""One small server a file, each against its peer's public API, run by the Python of that peer's own environment.

    MODEL=network.onnx PORT=9000 runs/peers/NAME/bin/python benchmarks/serving/peers/NAME_server.py

Batching is on where the peer has it, at the settings that served it best; access logs are off and metrics on. Nothing
of offramp is imported: `benchmarks.serving.session` gives all of them the same onnxruntime session.
"""
