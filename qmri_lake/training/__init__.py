"""Code shared by the training of segmentation networks and of classifiers."""
