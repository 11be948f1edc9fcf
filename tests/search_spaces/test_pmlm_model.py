import copy
import json
import warnings

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import BertForMaskedLM

from naslab.errors import InputError
from naslab.search_spaces import find_space
from naslab.search_spaces.common.modules.masked_lm import BertSizes
from naslab.search_spaces.common.modules.relative_bias import BiasSizes
from naslab.search_spaces.common.objectives.hidden_places import at_places
from naslab.search_spaces.common.objectives.masked_blocks import NOISE, Masking, Slots, mask
from naslab.search_spaces.data.text import SpecialIds
from naslab.search_spaces.pmlm.attention import pseudo_masked_attention, step_codes, visible
from naslab.search_spaces.pmlm.model import Plan, PseudoMaskedLM, to_hugging_face

SPECIAL = SpecialIds()
MASKING = Masking(0.4)
SIZES = BertSizes(vocabulary=60, width=16, layers=3, heads=4, hidden=64, positions=512)
EXACT = {"rtol": 0, "atol": 1e-13}
"""In float64: what differs in the order of its sums alone, through three layers of values about one."""


def made(bias=None, masking=MASKING, **plan):
    torch.manual_seed(0)
    return PseudoMaskedLM(Plan(SIZES, masking, bias=bias, **plan)).double().eval()


def batch(masking=MASKING, batch=3, length=14, pads=4):
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(5, SIZES.vocabulary, (batch, length), generator=generator)
    ids[:, 0], ids[:, -1] = SPECIAL.cls, SPECIAL.sep
    if pads:
        ids[-1, -1 - pads], ids[-1, -pads:] = SPECIAL.sep, SPECIAL.pad
    return mask(ids, torch.rand(batch, length, NOISE, generator=generator), masking, SPECIAL, SIZES.vocabulary)


BIASES = [None, BiasSizes(), BiasSizes(8, 4)]


@pytest.mark.parametrize("bias", BIASES)
def test_text_is_as_without_slots(bias):
    """First identity: behind the text nothing changes it."""
    model, masked = made(bias), batch()
    alone, _ = model.states(masked.ids_BL)
    joint, _ = model.states(masked.ids_BL, masked.slots)
    torch.testing.assert_close(joint, alone, **EXACT)


@pytest.mark.parametrize("bias", BIASES)
def test_each_step_is_as_in_a_pass_of_its_own(bias):
    """Second identity: a pass for each step, which holds the originals before it and the pseudo masks of it alone."""
    model, masked = made(bias), batch()
    slots = masked.slots
    _, joint = model.states(masked.ids_BL, slots)
    compared = 0
    for row in range(len(masked.ids_BL)):
        places, originals, steps = (part[row] for part in slots)
        for step in range(1, int(steps.max()) + 1):
            before, now = (steps > 0) & (steps < step), steps == step
            ids = torch.cat([masked.ids_BL[row], originals[before], torch.full_like(originals[now], SPECIAL.mask)])
            where = torch.cat([torch.arange(masked.ids_BL.shape[1]), places[before], places[now]])
            found = stock_states(model, ids[None], where[None], steps_of(masked.ids_BL[row], steps, before, now))
            torch.testing.assert_close(found[0, -int(now.sum()) :], joint[row, now], **EXACT)
            compared += int(now.sum())
    assert compared == int((slots.steps_BM > 0).sum()) > 10


def steps_of(text, steps, before, now):
    """Query codes and key codes of one step's own pass."""
    real = text != SPECIAL.pad
    codes = torch.cat([torch.zeros_like(text), steps[before], -steps[now]])
    return codes, torch.cat([real, torch.ones(int((before | now).sum()), dtype=torch.bool)])


def stock_states(model, ids, where, codes):
    """transformers' own BERT with a four-dimensional mask made token by token."""
    steps, real = codes
    seen = torch.tensor([[bool(real[k]) and sees(int(q), int(steps[k])) for k in range(len(steps))] for q in steps])
    bias = torch.zeros(len(steps), len(steps), dtype=torch.float64).masked_fill(~seen, -torch.inf)[None, None]
    if model.relative_bias is not None:
        bias = bias + model.relative_bias(where, where)
    return stock(model).bert(input_ids=ids, position_ids=where, attention_mask=bias).last_hidden_state


def stock(model, attention="eager"):
    lm = BertForMaskedLM(copy.deepcopy(model.lm.config)).double().eval()
    lm.load_state_dict(model.lm.state_dict())
    lm.set_attn_implementation(attention)
    return lm


def sees(query, key):
    """The paper's table: text 0, an original of step i is i, its pseudo mask -i."""
    if key < 0:
        return query == key
    return key < -query if query < 0 else key <= query


def test_the_table_of_who_sees_whom():
    codes = [0, 1, 2, 3, -1, -2, -3]
    found = visible(torch.tensor([codes]), torch.tensor([codes]))[0]
    assert found.tolist() == [[sees(q, k) for k in codes] for q in codes]
    assert [sum(row) for row in found.tolist()] == [1, 2, 3, 4, 2, 3, 4]


def test_depth_adds_no_leak():
    """The relation is its own transitive closure, so that no layer lets through what one layer does not."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        steps = torch.randint(1, 7, (1, 9), generator=generator)
        codes = step_codes(torch.ones(1, 5, dtype=torch.bool), steps)
        relation = visible(codes.queries_BT, codes.keys_BT)[0].int()
        assert torch.equal((relation @ relation > 0).int(), relation)


@pytest.mark.parametrize("bias", BIASES)
def test_no_gradient_comes_from_a_token_or_what_follows(bias):
    """Third identity: exactly zero from originals of a pseudo mask's own and later steps, more from those before."""
    model, masked = made(bias), batch(pads=0)
    steps = masked.slots.steps_BM
    table = model.lm.bert.embeddings.word_embeddings
    embedded = []
    handle = table.register_forward_hook(lambda module, given, out: embedded.append(out) or out.retain_grad())
    _, pseudo = model.states(masked.ids_BL, masked.slots)
    handle.remove()
    length, number = masked.ids_BL.shape[1], steps.shape[1]
    for step in range(1, int(steps.max()) + 1):
        now = steps == step
        if not now.any():
            continue
        (gradient,) = torch.autograd.grad(pseudo[now].square().sum(), embedded[0], retain_graph=True)
        originals = gradient[:, length : length + number].abs().sum(-1)
        later = (steps >= step) | (steps == 0) | ~now.any(1, keepdim=True)
        assert (originals[later] == 0).all()
        assert (originals[~later] > 0).all()


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_whole_pass_is_that_of_stock_bert_under_one_mask(bias, attention):
    """Peer: BertForMaskedLM with position ids and a mask of four dimensions, logits and gradients of all weights."""
    model, masked = made(bias), batch()
    slots = masked.slots
    peer = stock(model, attention)
    codes = step_codes(masked.ids_BL != SPECIAL.pad, slots.steps_BM)
    seen = visible(codes.queries_BT, codes.keys_BT)[:, None]
    places = torch.arange(14).expand(3, -1)
    where = torch.cat([places, slots.places_BM, slots.places_BM], 1)
    added = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    if bias:
        added = added + model.relative_bias(where, where)
    ids = torch.cat([masked.ids_BL, slots.originals_BM, torch.full_like(slots.originals_BM, SPECIAL.mask)], 1)
    theirs = peer(input_ids=ids, position_ids=where, attention_mask=added).logits
    text, pseudo = model.predictions(masked)
    full = slots.steps_BM > 0
    number = slots.steps_BM.shape[1]
    torch.testing.assert_close(at_places(theirs, slots.places_BM)[full], text[full], **EXACT)
    torch.testing.assert_close(theirs[:, -number:][full], pseudo[full], **EXACT)
    labels = slots.originals_BM[full]
    (
        F.cross_entropy(at_places(theirs, slots.places_BM)[full], labels)
        + F.cross_entropy(theirs[:, -number:][full], labels)
    ).backward()
    model.losses(masked)["loss"].backward()
    for own, other in zip(model.lm.parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, **EXACT)


def test_attention_is_that_of_flex_attention_under_the_block_mask():
    generator = torch.Generator().manual_seed(2)
    steps = torch.tensor([[1, 3, 2, 2, 0], [2, 1, 1, 3, 4]])
    real = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    query, key, value = (torch.randn(2, 4, 16, 8, generator=generator) for _ in range(3))
    codes = step_codes(real, steps)

    def mask_mod(b, h, q, k):
        own, other = codes.queries_BT[b, q], codes.keys_BT[b, k]
        return ((other < 0) & (other == own)) | ((other >= 0) & torch.where(own < 0, other < -own, other <= own))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        block = create_block_mask(mask_mod, 2, None, 16, 16, device="cpu")
        theirs = flex_attention(query, key, value, block_mask=block).transpose(1, 2)
    seen = visible(codes.queries_BT[:, 6:], codes.keys_BT)[:, None]
    ours, _ = pseudo_masked_attention(None, query, key, value, seen, text_mask=real[:, None, None])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_special_cases_are_the_usual_losses():
    """Without slots what is left is BERT's loss; without the text's own, that of the pseudo masks."""
    masked = batch(Masking(0.4, exact=True), pads=0)
    ae = made(pseudo_weight=0.0)
    labels = torch.full_like(masked.ids_BL, -100).scatter(1, masked.slots.places_BM, masked.slots.originals_BM)
    kept = masked.slots.steps_BM > 0
    assert kept.all()
    theirs = stock(ae, "sdpa")(input_ids=masked.ids_BL, labels=labels).loss
    torch.testing.assert_close(ae.losses(masked)["loss"], theirs, **EXACT)
    assert set(ae.losses(masked)) == {"loss", "ae"}
    par = made(autoencoding=False).losses(masked)
    assert set(par) == {"loss", "par"}
    assert par["loss"] == par["par"]


def test_weights_of_the_losses():
    masked = batch()
    found = made(pseudo_weight=2.5).losses(masked)
    torch.testing.assert_close(found["loss"], found["ae"] + 2.5 * found["par"], **EXACT)


def test_empty_slots_change_nothing():
    model, masked = made(BiasSizes()), batch()
    padded = Slots(*(F.pad(part, (0, 3)) for part in masked.slots))
    for own, other in zip(
        model.losses(masked).values(), model.losses(masked._replace(slots=padded)).values(), strict=True
    ):
        torch.testing.assert_close(own, other, **EXACT)


def test_padding_changes_nothing():
    model, masked = made(BiasSizes()), batch(pads=0)
    longer = masked._replace(ids_BL=F.pad(masked.ids_BL, (0, 4), value=SPECIAL.pad))
    for own, other in zip(model.losses(masked).values(), model.losses(longer).values(), strict=True):
        torch.testing.assert_close(own, other, **EXACT)


@pytest.mark.parametrize("bias", BIASES)
def test_nothing_is_blind_in_bfloat16(bias):
    """Empty slots and padding are not seen, but see the text, so that no row of the attention is without keys."""
    model, masked = made(bias).bfloat16(), batch()
    padded = masked._replace(slots=Slots(*(F.pad(part, (0, 3)) for part in masked.slots)))
    losses = model.losses(padded)
    losses["loss"].backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_from_a_checkpoint_and_back(tmp_path):
    first = made(None)
    to_hugging_face(first).float().save_pretrained(tmp_path / "bert")
    space = find_space("pmlm", "tiny", {"text_model": str(tmp_path / "bert"), "context": 14})
    names = [parameter.name for parameter in space.parameters]
    assert "width" not in names
    assert "layers" not in names
    again = space.build(space.published["no_relative_bias"]).eval()
    masked = batch()
    torch.testing.assert_close(again.double().losses(masked)["loss"], first.losses(masked)["loss"], rtol=1e-5, atol=0)
    peer = BertForMaskedLM.from_pretrained(tmp_path / "bert")
    assert peer.config._attn_implementation == "sdpa"
    with torch.no_grad():
        torch.testing.assert_close(
            to_hugging_face(again).float()(masked.ids_BL[:2]).logits, peer.eval()(masked.ids_BL[:2]).logits
        )
    # With the bias, which starts at zero, the pre-trained model is what it was.
    biased = space.build(space.reference).eval().double()
    torch.testing.assert_close(biased.losses(masked)["ae"], again.losses(masked)["ae"], rtol=1e-6, atol=0)
    with pytest.raises(InputError, match="no relative bias"):
        to_hugging_face(biased)


def test_a_checkpoint_without_the_head_is_refused(tmp_path):
    made(None).lm.bert.save_pretrained(tmp_path / "headless")
    space = find_space("pmlm", "tiny", {"text_model": str(tmp_path / "headless"), "context": 14})
    with pytest.raises(InputError, match=r"text_model.*lacks.*head") as error:
        space.build(space.reference)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"is_decoder": True}, "is a decoder"),
        ({"position_embedding_type": "relative_key"}, "relative_key positions"),
        ({"model_type": "roberta"}, "is a roberta, not a bert"),
    ],
)
def test_a_checkpoint_that_would_be_read_as_something_else_is_refused(tmp_path, changed, words):
    to_hugging_face(made(None)).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(InputError, match=words) as error:
        find_space("pmlm", "tiny", {"text_model": str(tmp_path), "context": 14})
    assert "\n" not in str(error.value)
