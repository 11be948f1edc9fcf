"""The video model against transformers' VideoMAEForPreTraining with the same mask, and its own options."""

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from naslab.errors import InputError
from naslab.search_spaces import find_space
from naslab.search_spaces.mae.video import ClipDesign

CLIPS = {
    "encoder": "own", "width": 24, "depth": 2, "heads": 3, "in_channels": 3, "image_size": 24, "decoder_heads": 2,
    "published_patch": 6, "published_ratio": 0.75, "published_decoder": (2, 16), "frames": 4,
}  # fmt: skip
VIDEO_MAE = {
    "positions": "sinusoid", "class_token": False, "predicted_frames": "all", "normalised_by": "channel",
    "clip_mask": "tube",
}  # fmt: skip


def make(**options):
    space = find_space("mae", None, {**CLIPS, **options})
    torch.manual_seed(0)
    return space.build(space.reference).eval(), space


def load_peer(ours, theirs):
    """Copy the peer's weights; its head's rows are in the order frame, row, column, channel."""
    state = theirs.state_dict()
    own = {
        "tube_embed.weight": state["videomae.embeddings.patch_embeddings.projection.weight"],
        "tube_embed.bias": state["videomae.embeddings.patch_embeddings.projection.bias"],
        "mask_token": state["mask_token"].flatten(),
        "narrow.weight": state["encoder_to_decoder.weight"],
        "narrow.bias": torch.zeros(16),
        "norm.weight": state["videomae.layernorm.weight"],
        "norm.bias": state["videomae.layernorm.bias"],
        "decoder_norm.weight": state["decoder.norm.weight"],
        "decoder_norm.bias": state["decoder.norm.bias"],
    }
    for kind in ("weight", "bias"):
        rows = state[f"decoder.head.{kind}"].unflatten(0, (2, 6, 6, 3))
        own[f"head.{kind}"] = rows.movedim(0, 2).flatten(0, 3)
    for stack, theirs_stack in (("blocks", "videomae.encoder.layer"), ("decoder_blocks", "decoder.decoder_layers")):
        for i in range(2):

            def get(name, at=f"{theirs_stack}.{i}."):
                return state[at + name]

            parts = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
                     "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}  # fmt: skip
            for kind in ("weight", "bias"):
                for mine, name in parts.items():
                    own[f"{stack}.{i}.{mine}.{kind}"] = get(f"{name}.{kind}")
            heads = [get(f"attention.attention.{p}.weight") for p in ("query", "key", "value")]
            query, value = (get(f"attention.attention.{p}.bias") for p in ("query", "value"))
            own[f"{stack}.{i}.attn.qkv.weight"] = torch.cat(heads)
            own[f"{stack}.{i}.attn.qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    ours.load_state_dict(own)


def test_loss_and_gradients_are_video_maes():
    torch.manual_seed(1)
    config = VideoMAEConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=24, patch_size=6,
        num_frames=4, decoder_hidden_size=16, decoder_num_hidden_layers=2, decoder_num_attention_heads=2,
        decoder_intermediate_size=64, use_mean_pooling=False, layer_norm_eps=1e-6,
    )  # fmt: skip
    theirs = VideoMAEForPreTraining(config).eval()
    theirs.decoder.norm.eps = 1e-6
    for parameter in theirs.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    ours, _ = make(**VIDEO_MAE)
    load_peer(ours, theirs)
    theirs, ours = theirs.double(), ours.double()
    clips, noise = torch.randn(2, 4, 3, 24, 24, dtype=torch.float64), torch.rand(2, 32, dtype=torch.float64)
    found = ours(clips, noise)
    masked = torch.zeros(2, 32, dtype=torch.bool).scatter(1, found.decoded_BM, True)
    expected = theirs(clips, bool_masked_pos=masked)
    # The peer's un-normalising constants are single precision, and its epsilons see scaled pixels.
    assert torch.allclose(found.loss, expected.loss, rtol=1e-5)
    found.loss.backward()
    expected.loss.backward()
    pairs = [
        (ours.tube_embed.weight, theirs.videomae.embeddings.patch_embeddings.projection.weight),
        (ours.narrow.weight, theirs.encoder_to_decoder.weight),
        (ours.blocks[0].mlp.fc1.weight, theirs.videomae.encoder.layer[0].intermediate.dense.weight),
    ]
    for mine, other in pairs:
        assert torch.allclose(mine.grad, other.grad, rtol=1e-3, atol=1e-7)
    assert torch.allclose(ours.mask_token.grad, theirs.mask_token.grad.flatten(), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("predicted", ["one", "all"])
def test_targets_are_the_tubes_pixels(predicted, normalised):
    """The loss of a zero prediction is the mean square of the targets, here taken tube by tube."""
    model, space = make(predicted_frames=predicted)
    target = "normalised_pixel" if normalised else "pixel"
    model = space.build(space.configuration({**space.reference.as_dict(), "target": target}))
    for parameter in model.head.parameters():
        parameter.data.zero_()
    clips, noise = torch.randn(1, 4, 3, 24, 24), torch.rand(1, 32)
    found = model(clips, noise)
    frames = {"one": [(0,), (3,)], "all": [(0, 1), (2, 3)]}[predicted]
    squares = []
    for token in found.decoded_BM[0].tolist():
        time, row, column = token // 16, token // 4 % 4, token % 4
        tube = clips[0][list(frames[time]), :, 6 * row : 6 * row + 6, 6 * column : 6 * column + 6]
        if normalised:
            tube = (tube - tube.mean()) / (tube.var() + 1e-6).sqrt()
        squares.append(tube.square().mean())
    assert torch.allclose(found.loss, torch.stack(squares).mean(), rtol=1e-5)


def test_one_frame_of_each_tube_is_spread_over_the_clip():
    design = ClipDesign(16, 2, "separable", True, "one", "patch")
    assert design.target_frames == (0, 2, 4, 6, 8, 10, 12, 15)


def test_a_decoder_on_a_subset_predicts_that_many_and_ignores_the_others_pixels():
    model, _ = make(decoder_keep=0.5, **VIDEO_MAE)
    clips, noise = torch.randn(2, 4, 3, 24, 24), torch.rand(2, 32)
    found = model(clips, noise)
    assert found.predicted_BMP.shape == (2, 12, 6 * 6 * 2 * 3)
    mask = model.design.masking.draw(noise)
    for chosen, masked in zip(found.decoded_BM.tolist(), mask.masked_BM.tolist(), strict=True):
        assert set(chosen) < set(masked)
    assert make(**VIDEO_MAE)[0](clips, noise).predicted_BMP.shape[1] == 24


def test_other_cells_are_rebuilt_for_other_samples_and_steps():
    model, _ = make(decoder_keep=0.5, **VIDEO_MAE)
    clips = torch.randn(16, 4, 3, 24, 24)
    noise = torch.rand(1, 32).expand(16, 32).clone()
    noise[:, -1] = torch.rand(16)
    decoded = {tuple(sorted(row)) for row in model(clips, noise).decoded_BM.tolist()}
    assert len(decoded) == 4


def test_the_decoder_of_mae_st_has_a_class_token_and_position_of_its_own():
    """The encoder's class token ends at the encoder: what it becomes changes nothing that is predicted."""
    model, _ = make()
    clips, noise = torch.randn(2, 4, 3, 24, 24), torch.rand(2, 32)
    names = dict(model.named_parameters())
    assert names["decoder_class_token"].shape == names["decoder_class_places"].shape == (16,)
    assert names["class_token"].shape == names["class_places"].shape == (24,)
    mask = model.design.masking.draw(noise)
    encoded = model._encode(model.embed(clips), mask)
    changed = encoded.clone()
    changed[:, 0] += 5
    first, second = model._decode(encoded, mask, noise)[0], model._decode(changed, mask, noise)[0]
    assert torch.equal(first, second)
    names["decoder_class_places"].data += 1
    assert not torch.equal(model._decode(encoded, mask, noise)[0], first)


def test_video_maes_pixels_are_those_before_standardisation():
    """The loss of a zero prediction is the mean square of the masked tubes' pixels in [0, 1]."""
    _, space = make(**VIDEO_MAE)
    model = space.build(space.configuration({**space.reference.as_dict(), "target": "pixel"})).eval()
    for parameter in model.head.parameters():
        parameter.data.zero_()
    mean, std = torch.tensor([0.2, 0.5, 0.7]), torch.tensor([0.1, 0.3, 0.25])
    raw, noise = torch.rand(2, 4, 3, 24, 24), torch.rand(2, 32)
    model.standardised_by(mean.tolist(), std.tolist())
    found = model((raw - mean[:, None, None]) / std[:, None, None], noise)
    squares = [
        raw[b, 2 * (t // 16) : 2 * (t // 16) + 2, :, 6 * (t // 4 % 4) :, 6 * (t % 4) :][..., :6, :6].square().mean()
        for b in range(2)
        for t in found.decoded_BM[b].tolist()
    ]
    assert torch.allclose(found.loss, torch.stack(squares).mean(), rtol=1e-5)
    assert {"pixel_mean", "pixel_std"} <= model.state_dict().keys()
    assert "pixel_mean" not in space.build(space.reference).state_dict()


@pytest.mark.parametrize("shape", [(4, 3, 24, 30), (4, 3, 30, 24), (6, 3, 24, 24), (3, 4, 24, 24), (4, 1, 24, 24)])
def test_clips_of_another_shape_are_refused(shape):
    model, _ = make()
    with pytest.raises(InputError, match="do not fit the model's 4x3x24x24"):
        model(torch.randn(2, *shape))
    with pytest.raises(InputError, match="do not fit"):
        model.features(torch.randn(2, *shape))


def test_every_parameter_of_the_separable_form_is_trained():
    model, _ = make()
    model(torch.randn(2, 4, 3, 24, 24), torch.rand(2, 32)).loss.backward()
    unused = {"class_token", "class_places"}  # they reach the patches by attention alone, in the last block nothing
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if n not in unused)
    assert "encoder_places.time_places" in dict(model.named_parameters())
