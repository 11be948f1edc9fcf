"""Parts of networks that more than one space is built of."""
