"""The image model against transformers' ViTMAEForPreTraining: same noise and weights, same loss and gradients."""

import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from naslab.errors import InputError
from naslab.search_spaces import find_space
from naslab.search_spaces.common.modules.positions import line_positions, plane_positions
from naslab.search_spaces.common.modules.vit import Sizes
from naslab.search_spaces.common.objectives.masked_patches import Masking
from naslab.search_spaces.mae.convert import from_hugging_face, hugging_face_state, own_state, to_hugging_face
from naslab.search_spaces.mae.model import Design, MaskedAutoencoder

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "image_size": 30,
    "patch_size": 6,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 40,
}


def peer(**changed):
    torch.manual_seed(1)
    model = ViTMAEForPreTraining(ViTMAEConfig(**{**SIZES, **changed}))
    for parameter in model.parameters():  # biases too, so that a wrong one shows
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    # A fresh peer may have positions of zero (its initialisation skips them); published weights have these.
    for places in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
        places.data[0, 1:] = torch.randn_like(places[0, 1:])
    return model


def tiny(values=None, **options):
    space = find_space("mae", "tiny", options)
    torch.manual_seed(0)
    return space.build(space.configuration({**space.reference.as_dict(), **(values or {})}))


@pytest.mark.parametrize(("ratio", "normalised"), [(0.75, True), (0.5, False), (0.9, True)])
def test_loss_and_gradients_are_the_peers(ratio, normalised):
    theirs = peer(mask_ratio=ratio, norm_pix_loss=normalised).double()
    ours = from_hugging_face(theirs).double()
    images, noise = torch.randn(3, 3, 30, 30, dtype=torch.float64), torch.rand(3, 25, dtype=torch.float64)
    expected = theirs(images, noise=noise)
    found = ours(images, noise)
    assert torch.allclose(found.loss, expected.loss, rtol=1e-12)
    rows = torch.arange(3)[:, None]
    assert torch.allclose(found.predicted_BMP, expected.logits[rows, found.decoded_BM], atol=1e-12)
    assert expected.mask[rows, found.decoded_BM].min() == 1
    expected.loss.backward()
    found.loss.backward()
    gradients = own_state({name: p.grad for name, p in theirs.named_parameters() if p.grad is not None})
    assert gradients.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter.grad, gradients[name], rtol=1e-9, atol=1e-12), name


def test_in_single_precision_too():
    theirs = peer()
    ours = from_hugging_face(theirs)
    images, noise = torch.randn(2, 3, 30, 30), torch.rand(2, 25)
    assert torch.allclose(ours(images, noise).loss, theirs(images, noise=noise).loss, rtol=1e-5)


def test_weights_export_and_come_back():
    model = tiny()
    exported = to_hugging_face(model)
    images, noise = torch.randn(2, 1, 28, 28), torch.rand(2, 49)
    assert torch.allclose(exported(images, noise=noise).loss, model(images, noise).loss, rtol=1e-5)
    back = from_hugging_face(exported)
    assert back.design == model.design
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)


def test_the_exported_state_is_complete():
    model = from_hugging_face(peer())
    assert hugging_face_state(model).keys() == peer().state_dict().keys()


@pytest.mark.parametrize(
    ("values", "message"),
    [({"mask": "block"}, "no block mask"), ({"encoder_mask_tokens": True}, "encoder with mask tokens")],
)
def test_what_the_peer_has_not_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        to_hugging_face(tiny(values))


def test_images_that_are_not_square_are_refused_by_the_peer_and_by_a_model_of_the_other_orientation():
    model = MaskedAutoencoder(
        Design(Sizes(16, 1, 2, 32), Sizes(16, 1, 2, 32), Masking("random", 0.5, (1, 2, 3)), 1, 4, "pixel")
    )
    assert model(torch.randn(2, 1, 8, 12)).loss.isfinite()
    for call in (model, model.features):
        with pytest.raises(InputError, match="images: 1x12x8 do not fit the model's 1x8x12"):
            call(torch.randn(2, 1, 12, 8))
    with pytest.raises(InputError, match="square images, not 2 x 3 patches"):
        to_hugging_face(model)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"image_size": [30, 30]}, r"hf: image_size \[30, 30\]; use one number"),
        ({"image_size": (30, 24)}, r"hf: image_size .* use one number"),
        ({"patch_size": [6, 6]}, r"hf: patch_size \[6, 6\]; use one number"),
        ({"hidden_dropout_prob": 0.1}, r"hf: hidden_dropout_prob 0\.1; the model here has no dropout"),
        (
            {"attention_probs_dropout_prob": 0.2},
            r"hf: attention_probs_dropout_prob 0\.2; the model here has no dropout, set it to 0",
        ),
        ({"image_size": 15}, r"hf: patch_size \d+ does not divide image_size 15"),
        ({"hidden_size": 18, "num_attention_heads": 3}, r"hf: hidden_size: 18 is not divisible by 4"),
        ({"num_attention_heads": 5}, r"hf: hidden_size: \d+ is not divisible by 5 heads"),
        ({"decoder_num_attention_heads": 7}, r"hf: decoder_hidden_size: \d+ is not divisible by 7 heads"),
    ],
)
def test_what_is_not_here_is_refused_in_one_line(changed, line):
    theirs = ViTMAEForPreTraining(ViTMAEConfig(**SIZES))
    for name, value in changed.items():  # not every class makes a model of each
        setattr(theirs.config, name, value)
    with pytest.raises(InputError, match=line) as caught:
        from_hugging_face(theirs)
    assert "\n" not in str(caught.value)


def test_positions_of_the_class_token_and_other_activations_are_refused():
    theirs = peer()
    theirs.decoder.decoder_pos_embed.data += 1
    with pytest.raises(InputError, match="class token a position"):
        from_hugging_face(theirs)
    with pytest.raises(InputError, match="relu"):
        from_hugging_face(peer(hidden_act="relu"))


def test_positions_are_the_peers():
    """The peer's own table tells rows first; published weights, and ours, have columns first."""
    theirs = build_2d_sinusoidal_position_embedding(5, 7, 24).roll(12, dims=1)
    assert torch.allclose(plane_positions(5, 7, 24), theirs, atol=1e-6)
    with pytest.raises(ValueError, match="4"):
        plane_positions(5, 5, 6)


def test_line_positions_are_the_definition():
    places = line_positions(7, 6)
    for place in range(7):
        for channel in range(6):
            angle = torch.tensor(place / 10000 ** (2 * (channel // 2) / 6), dtype=torch.float64)
            expected = angle.cos() if channel % 2 else angle.sin()
            assert places[place, channel].item() == pytest.approx(expected.item(), abs=1e-6)


def test_initialisation_is_the_papers():
    model = tiny(width=256, heads=8, decoder_heads=8, published_decoder=(2, 128))
    attention = model.blocks[0].attn
    bound = (6 / (256 + 3 * 256)) ** 0.5
    assert attention.qkv.weight.abs().max() <= bound
    assert attention.qkv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
    flat = (6 / (256 + 16)) ** 0.5
    assert model.patch_embed.weight.std().item() == pytest.approx(flat / 3**0.5, rel=0.05)
    assert model.class_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert attention.qkv.bias.abs().max() == 0
    assert model.norm.eps == 1e-6


def test_masked_pixels_do_not_reach_the_encoder():
    """What the decoder predicts must not depend on the pixels that it is to predict."""
    model = tiny()
    images, noise = torch.randn(1, 1, 28, 28), torch.rand(1, 49)
    first = model(images, noise)
    changed = images.clone()
    place = int(first.decoded_BM[0, 5])
    row, column = 4 * (place // 7), 4 * (place % 7)
    changed[0, 0, row : row + 4, column : column + 4] += torch.arange(16.0).view(
        4, 4
    )  # no constant: targets are normalised
    assert torch.equal(model(changed, noise).predicted_BMP, first.predicted_BMP)
    assert not torch.equal(model(changed, noise).loss, first.loss)


def test_an_encoder_with_mask_tokens_hides_the_masked_and_has_its_own_token():
    model = tiny({"encoder_mask_tokens": True})
    names = dict(model.named_parameters())
    assert "encoder_mask_token" in names
    assert "mask_token" not in names
    images, noise = torch.randn(2, 1, 28, 28), torch.rand(2, 49)
    found = model(images, noise)
    place = int(found.decoded_BM[0, 0])
    changed = images.clone()
    changed[0, 0, 4 * (place // 7) + 1, 4 * (place % 7) + 1] += 5
    assert torch.equal(model(changed, noise).predicted_BMP, found.predicted_BMP)
    found.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_features_see_every_token_and_need_no_noise():
    model = tiny()
    images = torch.randn(2, 1, 28, 28)
    features = model.features(images)
    assert features.shape == (2, 50, 64)
    assert torch.equal(features, model.features(images))


def test_noise_decides_and_too_little_of_it_is_refused():
    model = tiny().eval()
    images, noise = torch.randn(2, 1, 28, 28), torch.rand(2, 60)
    assert torch.equal(model(images, noise).loss, model(images, noise[:, :49]).loss)
    with pytest.raises(ValueError, match="48 numbers a sample are too few for 49"):
        model(images, noise[:, :48])
    assert model(images).loss.isfinite()
