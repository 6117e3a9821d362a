"""What people bring: a caption file in some form, lists of splits, photos in some folder."""

from core.photos.folder import PhotoFolder, holds_photos, read_photo_folder
from core.photos.forms import CaptionFile, read_caption_file

__all__ = ["CaptionFile", "PhotoFolder", "holds_photos", "read_caption_file", "read_photo_folder"]
