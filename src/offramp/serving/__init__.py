"""The engine and the service that every tier runs.

Conversation (gRPC) -> Engine -> Batcher -> StageRunner (onnxruntime)
                         |
                         +-> Uplink -> the next tier
"""
