"""The hot operations of the spaces, one file each."""
