"""What options of several commands can be, without what it stands for: ``--help`` loads nothing."""

DEVICES = ("auto", "cpu", "cuda", "mps")

# What ``--encoder`` takes, and the shape of what each computes for a picture: first one vector
# (D,), then a grid (L, C).
_RESNET = {"pooled": (2048,), "grid": (7 * 7, 2048)}
ENCODERS = {
    "squeezenet1_1": {"pooled": (512,), "grid": (13 * 13, 512)},
    "vgg16": {"fc7": (4096,), "grid": (14 * 14, 512)},
    "resnet50": _RESNET,
    "resnet101": _RESNET,
    "resnet152": _RESNET,
    "tiny_cnn": {"pooled": (128,), "grid": (8 * 8, 140)},
}
