"""Augmentation of images and masks, online and offline."""
