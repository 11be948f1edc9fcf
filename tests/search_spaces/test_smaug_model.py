"""SMAUG's model against naive twins of its parts."""

import math

import pytest
import torch
from small_smaug import DENSE, SMALL, VARIANTS, space
from torch.nn import functional as F

from naslab.errors import InputError
from naslab.kernels import token_mask, unmerge_tokens
from naslab.kernels.patch_loss import targets
from naslab.search_spaces import find_space, seed_everything
from naslab.search_spaces.common.modules.bert import DividedBert
from naslab.search_spaces.common.modules.masked_lm import load_masked_lm
from naslab.search_spaces.common.modules.tokens import Reduction, SelectingBlock
from naslab.search_spaces.smaug.design import Design
from naslab.search_spaces.smaug.encoder import FrameDecoder, FrameEncoder, frame_features


def build(changed, seed=0, **options):
    chosen = space(**options)
    seed_everything(seed)
    configuration = chosen.configuration({**chosen.reference.as_dict(), **changed})
    return chosen, configuration, chosen.build(configuration)


def inputs(chosen, batch=3, seed=1):
    torch.manual_seed(seed)
    return chosen.example_input(batch)


@pytest.mark.parametrize("changed", VARIANTS, ids=str)
def test_every_variant_trains_and_repeats_itself_in_evaluation(changed):
    chosen, _, model = build(changed)
    batch = inputs(chosen)
    question = {"question_ids": batch["text_ids"], "answers": torch.tensor([0, 4, -100])}
    outputs = model.train()(**batch, **question)
    assert next(iter(outputs)) == "loss"
    assert [name for name, value in outputs.items() if value.requires_grad] == ["loss"]
    outputs["loss"].backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Keys of a softmax have no gradient in their bias; the class token's place after it is part of qkv's.
    assert not [n for n in silent if not n.endswith("key.bias")]
    model.eval()
    first, second = model(**batch), model(**batch)
    assert all(torch.equal(first[name], second[name]) for name in first)
    weights = chosen.reference.into(Design)
    total = sum(getattr(weights, f"{n}_weight") * v for n, v in first.items() if n != "loss")
    assert changed.get("mvm_weight") == 0 or torch.allclose(first["loss"], total)


def test_a_clips_own_caption_does_not_show_in_its_similarities():
    """Which frames it keeps would give the caption away, and the contrastive loss would learn to read that."""
    chosen, _, model = build({"frames_kept": 1})
    batch, order = inputs(chosen, 6), torch.tensor([3, 0, 5, 1, 2, 4])
    similarities = {}
    original = model._similarity
    model._similarity = lambda text, video: similarities.setdefault(len(similarities), original(text, video))
    model.eval()(**batch)
    model(**{**batch, "text_ids": batch["text_ids"][order]})
    assert similarities[0].std() > 0
    assert torch.allclose(similarities[1], similarities[0][order], atol=1e-5)


def test_keep_rate_1_and_ratio_0_are_the_dense_model_exactly():
    chosen, _, model = build(DENSE)
    batch = inputs(chosen)
    frames = batch["frames"]
    model.eval()
    with torch.no_grad():
        model.encoder.temporal_TD.zero_()
        plain = model.encoder.vit.forward_features(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        assert torch.allclose(model.watch(frames).tokens_BTND, plain, atol=1e-5)
        expected = model(**batch)
        blocks = model.encoder.vit.blocks
        for layer in (1, 2, 3):
            blocks[layer] = SelectingBlock(blocks[layer], 1.0, fuse=True, prefix=1)
        again = model(**batch | {"visual_noise": torch.rand_like(batch["visual_noise"])})
    assert "mvm" not in expected
    assert all(torch.equal(expected[name], again[name]) for name in expected)


def test_masked_patches_never_reach_the_encoder_and_alone_carry_the_pixel_loss():
    chosen, configuration, model = build({"frames_kept": 4})
    model.eval()
    batch = inputs(chosen)
    visible = configuration.into(Design).visible(16)
    assert visible == 5
    mask = token_mask(batch["visual_noise"].flatten(0, 1), visible)
    hidden_BTL = torch.zeros(3 * 4, 16).scatter(1, mask.masked_BM, 1.0).view(3, 4, 1, 4, 4)
    pixels = hidden_BTL.repeat_interleave(4, 3).repeat_interleave(4, 4)
    changed = batch | {"frames": batch["frames"] + pixels * torch.randn_like(batch["frames"])}
    first, second = model(**batch), model(**changed)
    assert not torch.equal(first["mvm"], second["mvm"])
    assert all(torch.equal(first[name], second[name]) for name in ("vtc", "vtm", "mlm"))
    seen = {}
    model.decoder.register_forward_hook(lambda module, given, output: seen.update(predicted=output))
    model(**batch)
    wanted = targets(batch["frames"].flatten(0, 1), mask.masked_BM, 4, normalised=True)
    assert torch.allclose(model(**batch)["mvm"], F.mse_loss(seen["predicted"], wanted), rtol=1e-5)


def sizes():
    return space().options


def naive_evit(encoder, patches_LD, kept_places, rate, layers, fuse):
    """One frame, token by token: a list of (place, vector), place None for the class token and fused ones."""
    vit = encoder.vit
    tokens = [(None, vit.cls_token[0, 0] + vit.pos_embed[0, 0])]
    tokens += [(p, patches_LD[p] + vit.pos_embed[0, 1 + p]) for p in kept_places]
    for layer, block in enumerate(vit.blocks):
        x = torch.stack([vector for _, vector in tokens])
        normed, attention = block.norm1(x), block.attn
        q, k, v = attention.qkv(normed).view(len(x), 3, attention.num_heads, -1).unbind(1)
        out, row = [], torch.zeros(len(x), dtype=x.dtype)
        for h in range(attention.num_heads):
            probabilities = (q[:, h] @ k[:, h].T * attention.head_dim**-0.5).softmax(1)
            row += probabilities[0] / attention.num_heads
            out.append(probabilities @ v[:, h])
        x = x + attention.proj(torch.cat(out, 1))
        tokens = [(place, vector) for (place, _), vector in zip(tokens, x, strict=True)]
        if layer in layers:
            keep = math.ceil(rate * (len(tokens) - 1))
            order = sorted(range(1, len(tokens)), key=lambda i: -row[i].item())
            rest = sum(row[i] * tokens[i][1] for i in order[keep:])
            tokens = [tokens[0], *(tokens[i] for i in order[:keep])]
            if fuse and len(order) > keep:
                tokens.append((None, rest))
        x = torch.stack([vector for _, vector in tokens])
        x = x + block.mlp(block.norm2(x))
        tokens = [(place, vector) for (place, _), vector in zip(tokens, x, strict=True)]
    return [(place, vit.norm(vector)) for place, vector in tokens]


@pytest.mark.parametrize("fuse", [True, False])
def test_sparsification_is_evits_rule_and_the_decoder_knows_the_places(fuse):
    torch.manual_seed(0)
    encoder = FrameEncoder(sizes(), 4, Reduction("evit", (1, 2, 3), 0.6, fuse)).double().eval()
    patches = torch.randn(2, 16, 24, dtype=torch.float64)
    mask = token_mask(torch.rand(2, 16), 10)
    encoded = encoder(patches, mask)
    decoder = FrameDecoder(sizes(), 1).double()
    decoder.blocks, decoder.norm = torch.nn.Identity(), torch.nn.Identity()
    decoder.predict, decoder.positions_LD.data = torch.nn.Identity(), torch.zeros_like(decoder.positions_LD)
    everywhere = torch.arange(16).expand(2, 16)
    with torch.no_grad():
        shown = decoder(encoded, everywhere)
    for frame in range(2):
        with torch.no_grad():
            naive = naive_evit(encoder, patches[frame], mask.visible_BK[frame].tolist(), 0.6, (1, 2, 3), fuse)
            assert len(naive) == encoded.tokens_FND.shape[1]
            assert torch.allclose(encoded.tokens_FND[frame], torch.stack([v for _, v in naive]))
            expected = decoder.mask_token.expand(16, -1).clone()
            for place, vector in naive:
                if place is not None:
                    expected[place] = decoder.narrow(vector)
        assert torch.allclose(shown[frame], expected)


def test_tome_gives_every_visible_patch_the_token_that_it_merged_into():
    torch.manual_seed(0)
    encoder = FrameEncoder(sizes(), 4, Reduction("tome", (1, 2), 0.7)).double().eval()
    mask = token_mask(torch.rand(2, 16), 10)
    encoded = encoder(torch.randn(2, 16, 24, dtype=torch.float64), mask)
    assert encoded.tokens_FND.shape[1] == 1 + 5
    decoder = FrameDecoder(sizes(), 1).double()
    decoder.blocks = decoder.norm = decoder.predict = torch.nn.Identity()
    decoder.positions_LD.data.zero_()
    shown = decoder(encoded, torch.arange(16).expand(2, 16))
    tokens = decoder.narrow(encoded.tokens_FND)
    for frame in range(2):
        alike = torch.cdist(shown[frame], tokens[frame, 1:]) < 1e-12
        assert alike[mask.visible_BK[frame]].any(1).all()
        assert not alike[mask.masked_BM[frame]].any()
        assert alike.any(0).all()


def test_the_text_encoder_is_bert_and_loads_one(tmp_path):
    from transformers import BertConfig, BertForMaskedLM, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=96
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path)
    small = {name: value for name, value in SMALL.items() if name != "vocabulary"}
    chosen = find_space("smaug", "tiny", {**small, "text_model": str(tmp_path), "fusion_layers": 1})
    assert (chosen.bert.num_hidden_layers, chosen.bert.vocab_size, chosen.bert.num_attention_heads) == (3, 60, 2)
    text = DividedBert(chosen.bert, 1, 24, words_head=True, pretrained=load_masked_lm(str(tmp_path))).eval()
    theirs = BertModel.from_pretrained(tmp_path, num_hidden_layers=2, add_pooling_layer=False).eval()
    ids = torch.tensor([[1, 7, 9, 2, 0, 0], [1, 8, 2, 0, 0, 0]])
    with torch.no_grad():
        expected = theirs(ids, attention_mask=(ids != 0).long()).last_hidden_state
        found = text.encode(ids)
    assert torch.allclose(found[0, :4], expected[0, :4], atol=1e-6)
    assert torch.allclose(found[1, :3], expected[1, :3], atol=1e-6)
    last = BertForMaskedLM.from_pretrained(tmp_path).bert.encoder.layer[2]
    assert torch.equal(text.fusion_layers[0].intermediate.dense.weight, last.intermediate.dense.weight)
    assert text.words.predictions.decoder.weight is text.embeddings.word_embeddings.weight


def test_a_text_model_without_its_head_is_refused_where_words_are_modelled(tmp_path):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path)
    small = {name: value for name, value in SMALL.items() if name != "vocabulary"}
    chosen = find_space("smaug", "tiny", {**small, "text_model": str(tmp_path), "fusion_layers": 1})
    with pytest.raises(InputError, match=r"space\.options\.text_model: .* lacks the head for masked words") as caught:
        chosen.build(chosen.reference)
    assert "\n" not in str(caught.value)
    without = chosen.configuration({**chosen.reference.as_dict(), "text_masking_ratio": 0.0})
    theirs = BertModel.from_pretrained(tmp_path).state_dict()
    found = chosen.build(without).text.embeddings.state_dict()
    assert all(torch.equal(tensor, theirs[f"embeddings.{name}"]) for name, tensor in found.items())
    with pytest.raises(InputError, match=r"space\.options\.text_tokens: 600 tokens are more than the 512 positions"):
        find_space("smaug", "tiny", {**small, "text_model": str(tmp_path), "fusion_layers": 1, "text_tokens": 600})


def test_padding_changes_nothing():
    _, _, model = build(DENSE)
    model.eval()
    ids = torch.tensor([[1, 7, 9, 2, 0, 0, 0, 0]])
    video = model.watch(torch.randn(1, 4, 1, 16, 16))
    assert torch.allclose(model.fit(ids, video), model.fit(ids[:, :4], video), atol=1e-6)


def test_the_mean_of_a_frame_counts_merged_tokens_by_their_patches():
    torch.manual_seed(0)
    encoder = FrameEncoder(sizes(), 4, Reduction("tome", (1, 2), 0.7)).double().eval()
    encoded = encoder(torch.randn(2, 16, 24, dtype=torch.float64), token_mask(torch.rand(2, 16), 10))
    assert encoded.sizes_FN.max() > 1
    places = encoded.tokens_FND
    for matching in reversed(encoded.matchings):
        places = unmerge_tokens(places, matching)
    features = frame_features(encoded.tokens_FND[None, :, 1:], encoded.sizes_FN[None, :, 1:])[0]
    assert torch.allclose(features[:, :24], places[:, 1:].mean(1))
    assert torch.equal(features[:, 24:], places[:, 1:].amax(1))
