import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from naslab.efficiency.flops import count_forward
from naslab.errors import InputError
from naslab.kernels import token_mask, unmerge_tokens
from naslab.kernels.patch_loss import targets
from naslab.search_spaces import find_space, seed_everything
from naslab.search_spaces.common.modules.bert import DividedBert
from naslab.search_spaces.common.modules.tokens import Reduction, SelectingBlock
from naslab.search_spaces.common.objectives.masked_patches import Masking
from naslab.search_spaces.smaug.cost import part_macs
from naslab.search_spaces.smaug.design import LAYERS, Design
from naslab.search_spaces.smaug.encoder import FrameDecoder, FrameEncoder, frame_features

SMALL = {
    "image_size": 16, "patch_size": 4, "clip_frames": 4, "width": 24, "depth": 4, "heads": 2, "vocabulary": 40,
    "text_tokens": 8, "embedding_width": 8, "decoder_width": 16, "decoder_heads": 2, "answers": 5,
}  # fmt: skip
DENSE = {"visual_masking_ratio": 0.0, "keep_rate": 1.0, "frames_kept": 4}
VARIANTS = (
    {},
    DENSE,
    {**DENSE, "text_masking_ratio": 0.0},
    {"rule": "tome"},
    {"fuse": False},
    {"selection": "before"},
    {"selection": "before", "estimator": "perturbed"},
    {"estimator": "perturbed", "decoder_depth": 2},
    {"text_masking": "joint", "mvm_weight": 0.0},
    {"frames": 2, "frames_kept": 1, "sparsify_layers": "half"},
)


def space(**options):
    return find_space("smaug", "tiny", {**SMALL, **options})


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


CASES = [("tiny", v) for v in VARIANTS] + [("small", v) for v in VARIANTS[:4]] + [("paper", v) for v in VARIANTS[::3]]


@pytest.mark.parametrize(("preset", "changed"), CASES, ids=str)
def test_the_formula_agrees_with_the_counter(preset, changed):
    chosen = find_space("smaug", preset, {"clip_frames": 4, "depth": 4} if preset != "paper" else {})
    configuration = chosen.configuration({**chosen.reference.as_dict(), **changed})
    with torch.device("meta"):
        counted = count_forward(chosen.build(configuration), chosen.example_input(2))
    assert chosen.forward_flops(configuration, 2) == pytest.approx(counted.total, rel=0.01)


TABLE = """
1 .5 1 1 1.57 1.50 1.21
1 .65 1 1 1.88 1.80 1.39
1 .5 .7 1 1.97 1.88 1.44
1 .75 .7 1 2.49 2.34 1.70
4 .65 1 4 2.47 2.29 1.56
4 .65 .7 2 3.52 3.15 1.91
4 .75 .7 4 4.15 3.65 2.09
4 .75 .5 2 5.04 4.33 2.29
"""
"""FLOPs of a dense Singularity-like step over those of a sparse one without decoder, with 1 and with 8 blocks, by
frames, masking ratio, keep rate and frames kept: derived from the published sizes of ViT-B and BERT-base."""


def macs(chosen, **changed):
    values = {**chosen.reference.as_dict(), **changed}
    return sum(part_macs(chosen.options, chosen.bert, chosen.configuration(values).into(Design)).values())


@pytest.mark.parametrize("row", TABLE.strip().splitlines())
def test_savings_are_those_derived_from_the_published_sizes(row):
    frames, ratio, keep, kept, *ratios = (float(cell) for cell in row.split())
    chosen = find_space("smaug", "paper")
    dense = {"visual_masking_ratio": 0.0, "keep_rate": 1.0, "frames": frames, "frames_kept": frames}
    sparse = {"visual_masking_ratio": ratio, "keep_rate": keep, "frames": frames, "frames_kept": kept}
    decoders = ({"mvm_weight": 0.0}, {"decoder_depth": 1}, {"decoder_depth": 8})
    for decoder, expected in zip(decoders, ratios, strict=True):
        assert macs(chosen, **dense) / macs(chosen, **sparse, **decoder) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("frames", "total"), [(1, 28.5), (4, 89.9)])
def test_the_dense_step_costs_what_the_published_sizes_say(frames, total):
    chosen = find_space("smaug", "paper")
    dense = {"visual_masking_ratio": 0.0, "keep_rate": 1.0, "frames": frames, "frames_kept": frames}
    assert macs(chosen, **dense) / 1e9 == pytest.approx(total, rel=0.005)


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
    text = DividedBert(chosen.bert, 1, 24, words_head=True, pretrained=str(tmp_path)).eval()
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


def test_padding_changes_nothing():
    _, _, model = build(DENSE)
    model.eval()
    ids = torch.tensor([[1, 7, 9, 2, 0, 0, 0, 0]])
    video = model.watch(torch.randn(1, 4, 1, 16, 16))
    assert torch.allclose(model.fit(ids, video), model.fit(ids[:, :4], video), atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"keep_rate": 0.0}, "keep_rate: 0.0 is not allowed; use a number from 0.3 to 1"),
        ({"frames_kept": 4, "frames": 2}, "frames_kept: 4 is more than the 2 frames"),
        ({"frames": 9}, "frames: 9 is not allowed; use an integer from 1 to 4"),
        ({"rule": "tome", "keep_rate": 0.4}, "keep_rate: 0.4 is not possible with ToMe"),
        ({"vtc_weight": 0.0, "vtm_weight": 0.0, "qa_weight": 0.0}, "nothing joins video and text"),
        ({f"{name}_weight": 0.0 for name in ("vtc", "vtm", "mlm", "mvm", "qa")}, "nothing joins video and text"),
        ({"visual_masking_ratio": 1.0}, "visual_masking_ratio: 1.0 is not allowed"),
    ],
)
def test_bad_configurations_are_refused_in_one_line(changed, message):
    chosen = space()
    with pytest.raises(InputError, match=message) as caught:
        chosen.configuration({**chosen.reference.as_dict(), **changed})
    assert "\n" not in str(caught.value)


def test_a_ratio_that_leaves_no_patch_is_refused():
    chosen = space(patch_size=8)
    with pytest.raises(InputError, match=r"0\.9 leaves none of the 4 patches"):
        chosen.configuration({**chosen.reference.as_dict(), "visual_masking_ratio": 0.9})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 5}, "patch_size 5 does not divide image_size 16"),
        ({"heads": 5}, "heads 5 does not divide a width of 24"),
        ({"special": {"pad": 1}}, "special tokens .* must differ"),
        ({"text_model": "bert"}, "space.vocabulary: applies only with text_model = None"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as caught:
        space(**options)
    assert "\n" not in str(caught.value)


def test_a_text_model_that_cannot_be_loaded_is_one_line():
    with pytest.raises(InputError, match=r"space\.text_model: cannot load '/no/such/folder'") as caught:
        find_space("smaug", "tiny", {"text_model": "/no/such/folder"})
    assert "\n" not in str(caught.value)


def test_what_does_not_matter_has_one_value():
    chosen = space()
    reference = chosen.reference.as_dict()
    pairs = [
        ({"keep_rate": 1.0, "rule": "tome"}, {"keep_rate": 1.0, "fuse": False}),
        ({"frames_kept": 4, "selection": "before"}, {"frames_kept": 4, "estimator": "perturbed"}),
        ({"visual_masking_ratio": 0.0, "decoder_depth": 8}, {"visual_masking_ratio": 0.0, "mvm_weight": 0.5}),
        ({"text_masking_ratio": 0.0, "mlm_weight": 2.0}, {"mlm_weight": 0.0, "text_masking": "joint"}),
        ({"keep_rate": 0.99, "sparsify_layers": "half"}, {"keep_rate": 1.0}),
    ]
    for first, second in pairs:
        a, b = (chosen.configuration({**reference, **changed}) for changed in (first, second))
        assert a.digest == b.digest


def test_without_an_answer_head_its_weight_is_no_choice():
    chosen = space(answers=0)
    reference = chosen.reference.as_dict()
    assert len({chosen.configuration({**reference, "qa_weight": weight}) for weight in (0.0, 1.0, 2.0)}) == 1
    with pytest.raises(InputError, match="nothing joins video and text"):
        chosen.configuration({**reference, "vtc_weight": 0.0, "vtm_weight": 0.0})


def test_names_of_the_same_layers_are_one_configuration():
    chosen = space(depth=2)
    found = {chosen.configuration({**chosen.reference.as_dict(), "sparsify_layers": name}) for name in LAYERS}
    assert len(found) == 1
    assert len({space().configuration({**space().reference.as_dict(), "sparsify_layers": n}) for n in LAYERS}) == 3


SHARES = {"visual_masking_ratio": (0.0, 0.8), "text_masking_ratio": (0.0, 0.9), "keep_rate": (0.5, 1.0)}


def function_of(configuration, patches=16, tokens=8):
    """All that the shares of a configuration decide: what is masked of frames and texts, what each layer drops."""
    design = configuration.into(Design)
    words = [(max(1, round(design.text_masking_ratio * n)), design.models_words) for n in range(1, tokens - 1)]
    reduction = design.reduction(4)
    visible = design.visible(patches)
    return visible, tuple(words), *(reduction.signature(free, 4) for free in (visible, patches))


@pytest.mark.parametrize("rule", ["evit", "tome"])
@pytest.mark.parametrize("name", SHARES)
def test_shares_of_the_same_counts_are_one_configuration(name, rule):
    """Two configurations are equal exactly where they mask and drop the same."""
    chosen = space()
    low, high = SHARES[name]
    found = {}
    for share in (chosen.reference[name], *(low + (high - low) * step / 100 for step in range(101))):
        values = {**chosen.reference.as_dict(), "rule": rule, name: share}
        configuration = chosen.configuration(values)
        assert chosen.configuration(configuration) == configuration
        found.setdefault(function_of(configuration), set()).add(configuration)
    assert {len(same) for same in found.values()} == {1}
    assert 5 <= len(found) < 60


@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_published_shares_are_round_already(preset):
    reference = find_space("smaug", preset).reference
    assert [reference[name] for name in SHARES] == [0.65, 0.5, 0.7]


def test_rounded_shares_build_the_function_that_was_asked_for():
    chosen = space()
    for ratio in (0.01, 0.34, 0.651, 0.755):
        given = replace(chosen.reference.into(Design), visual_masking_ratio=ratio)
        found = chosen.configuration({**chosen.reference.as_dict(), "visual_masking_ratio": ratio}).into(Design)
        assert found.visible(16) == given.visible(16) == int(16 * (1 - ratio))


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.55, 0.7, 0.9])
@pytest.mark.parametrize("side", [4, 10, 14])
def test_masking_leaves_as_many_patches_as_in_mae(side, ratio):
    design = replace(space().reference.into(Design), visual_masking_ratio=ratio)
    assert design.visible(side**2) == Masking("random", ratio, (1, side, side)).visible


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


@pytest.mark.parametrize("option", ["selector_samples", "selector_sigma"])
def test_clips_of_one_frame_have_no_selector_to_set(option):
    find_space("smaug", "tiny", {option: 2})
    with pytest.raises(InputError, match=f"{option}: applies only with clip_frames other than 1"):
        find_space("smaug", "tiny", {"clip_frames": 1, option: 2})
    assert find_space("smaug", "tiny", {"clip_frames": 1}).options.selector_samples == 500
