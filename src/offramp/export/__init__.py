"""From a trained run to a bundle: one ONNX file a stage, exit policies, and the proof of parity.

Needs the extra `train`. `offramp.export.bundle.write_bundle` is the whole of it;
`offramp.export.restore` goes back.
"""
