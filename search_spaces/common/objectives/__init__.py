"""What self-supervised training asks of a model."""
