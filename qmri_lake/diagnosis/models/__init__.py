"""Classifiers: ResNets, batches of images, predictions and Grad-CAM."""
