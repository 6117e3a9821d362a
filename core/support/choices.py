"""The choices of the commands' options, each list once.

Plain words, so that ``--help`` need not load what they name; a test holds them equal to it.
"""

MODEL_NAMES = ("rnn", "lstm", "attention", "transformer")
UPDATE_RULES = ("sgd", "sgd_momentum", "rmsprop", "adam", "adamw")
SCHEDULES = ("decay", "cosine")
OBJECTIVES = ("crossentropy", "scst")
# What the best epoch is best in, and what the solver calls it.
SELECT = {"loss": "val_loss", "bleu4": "BLEU-4", "cider": "CIDEr-D"}
ENGINES = ("plain", "numpy", "torch")
PRECISIONS = ("float32", "bf16")
DTYPES = ("float32", "float64")
POSITIONS = ("learned", "sinusoidal")
ACTIVATIONS = ("relu", "gelu")
SPLITS = ("train", "val", "test")

DEVICES = ("auto", "cpu", "cuda", "mps")

# What ``--encoder`` takes, and the shape of what each computes for a picture: first one vector
# (D,), then a grid (L, C).
_RESNET = {"pooled": (2048,), "grid": (7 * 7, 2048)}
_MOBILENET = {"pooled": (1280,), "grid": (7 * 7, 1280)}
ENCODERS = {
    "mobilenet_v2": _MOBILENET,
    "tf_mobilenet_v2": _MOBILENET,
    "squeezenet1_1": {"pooled": (512,), "grid": (13 * 13, 512)},
    "vgg16": {"fc7": (4096,), "grid": (14 * 14, 512)},
    "resnet50": _RESNET,
    "resnet101": _RESNET,
    "resnet152": _RESNET,
    "tiny_cnn": {"pooled": (128,), "grid": (8 * 8, 140)},
}
# All encoders: those of ``--encoder``, and the one of the embedded pictures.
OUTPUTS = {"fixed_cnn": {"strips": (665,), "grid": (8 * 8, 47)}, **ENCODERS}
GIVEN = "given"  # in place of an encoder: features that another program made

# The formats of photos that are read, and no other, whatever a file is called: Pillow knows more,
# and starts another program (Ghostscript) for one of them.
FORMATS = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "PPM": (".ppm", ".pgm", ".pbm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
SUFFIXES = {suffix for suffixes in FORMATS.values() for suffix in suffixes}
