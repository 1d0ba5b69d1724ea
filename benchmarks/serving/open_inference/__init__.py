"""The Open Inference Protocol's messages; `inference_pb2*` are generated from inference.proto and never edited.

python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. \
    benchmarks/serving/open_inference/inference.proto
"""
