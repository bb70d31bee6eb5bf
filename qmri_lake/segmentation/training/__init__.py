"""Train segmentation networks and ensembles; an interrupted training can be resumed."""
