"""The contrastive session encoder: model, losses, and the vectors it yields."""
