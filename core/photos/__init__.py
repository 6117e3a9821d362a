"""What people bring: a caption file in some form, lists of splits, photos in some folder."""

from core.photos.forms import CaptionFile, read_caption_file

__all__ = ["CaptionFile", "read_caption_file"]
