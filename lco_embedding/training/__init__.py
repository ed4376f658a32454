"""Training: generative pretraining, then contrastive learning."""
