"""The coco_captioning data layout: its folder, its words, batches of it, tables of features."""

from core.coco_utils.batches import (
    caption_limit,
    minibatches,
    null_of,
    sample_coco_minibatch,
    share_of_unknown,
    take_samples,
    without_long_captions,
)
from core.coco_utils.folder import (
    CAPTIONS_FILE,
    DATASET_FILE,
    DEFAULT_FOLDER,
    SPLITS,
    VOCABULARY_FILE,
    feature_kinds,
    image_path,
    load_coco_data,
    picture_paths,
    save_coco_data,
)
from core.coco_utils.tables import Blocks, open_features, write_features
from core.coco_utils.words import (
    SPECIAL_WORDS,
    build_vocabulary,
    decode_captions,
    encode_captions,
    find_words,
    plain_words,
)

__all__ = [
    "CAPTIONS_FILE",
    "DATASET_FILE",
    "DEFAULT_FOLDER",
    "SPECIAL_WORDS",
    "SPLITS",
    "VOCABULARY_FILE",
    "Blocks",
    "build_vocabulary",
    "caption_limit",
    "decode_captions",
    "encode_captions",
    "feature_kinds",
    "find_words",
    "image_path",
    "load_coco_data",
    "minibatches",
    "null_of",
    "open_features",
    "picture_paths",
    "plain_words",
    "sample_coco_minibatch",
    "save_coco_data",
    "share_of_unknown",
    "take_samples",
    "without_long_captions",
    "write_features",
]
