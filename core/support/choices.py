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
