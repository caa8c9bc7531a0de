"""Images with boxes and classes: composed scenes, and folders in COCO or Pascal VOC format."""
