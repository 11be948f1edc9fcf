"""MAE: masked autoencoders of images and video, swept over masking ratio, mask, decoder and target."""

from naslab.search_spaces.mae.space import MAE, MAEOptions
from naslab.search_spaces.mae.task import ClipPretraining, MaskedPretraining


class Space(MAE):
    """The space and the task that trains what it builds: of images, or of clips where `frames` is above 1."""

    def __init__(self, options: MAEOptions) -> None:
        super().__init__(options)
        self.Task = MaskedPretraining if options.frames == 1 else ClipPretraining


__all__ = ["Space"]
