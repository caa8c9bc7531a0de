"""Images with a class for every pixel: composed scenes, and folders of images and masks."""
