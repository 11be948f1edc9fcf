"""The subset of Fashion-MNIST that ships with the project."""
