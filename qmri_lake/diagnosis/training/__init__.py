"""Train one or many classifiers of osteoarthritis and pain; interrupted trainings can resume."""
