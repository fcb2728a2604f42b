"""Bugs in attention of one token: in its mask, its running maximum, its groups and parts, and in what it takes."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_a = partial(Mutant, file="qbench/model/attend.py", check="attend")
_t = partial(Mutant, file="qbench/model/attend.py", check="attend-takes")

MUTANTS = (
    # --- scores
    _a(
        "attend-mask-not-added",
        "            score += seen[None, :] * 1.4426950408889634\n",
        "            score += 0.0\n",
        "a mask that is added changes nothing",
    ),
    _a(
        "attend-mask-in-another-unit",
        "seen[None, :] * 1.4426950408889634",
        "seen[None, :]",
        "what a mask adds is too small by log2 e, which -inf does not show",
    ),
    _a(
        "attend-mask-inverted",
        "mask=inside, other=0) != 0)",
        "mask=inside, other=1) == 0)",
        "places are seen where the mask says False",
    ),
    _a(
        "attend-mask-of-the-first-text",
        "mask is None or mask.shape[0] == 1 else",
        "mask is None or mask.shape[0] >= 1 else",
        "each text is masked as the first one",
    ),
    _a(
        "attend-mask-of-the-part-before",
        "tl.load(mask_ptr + text * mask_text + place, mask=inside, other=0.0)",
        "tl.load(mask_ptr + text * mask_text + place - begin, mask=inside, other=0.0)",
        "every part is masked as the first one",
    ),
    _a(
        "attend-scale-forgotten",
        "score = tl.dot(q, tl.trans(k)) * scale",
        "score = tl.dot(q, tl.trans(k)) * 1.4426950408889634",
        "scores are not scaled",
    ),
    _a(
        "attend-scale-of-zero-is-none",
        "if scale is None else scale",
        "if not scale else scale",
        "a scale of 0 is the default",
    ),
    _a(
        "attend-powers-of-e",
        "scale * math.log2(math.e)",
        "scale",
        "weights are powers of 2",
    ),
    # --- the running maximum
    _a(
        "attend-sums-not-rescaled",
        "sums = sums * kept[:, None] + ",
        "sums = sums + ",
        "values of earlier steps keep their weight under a larger maximum",
    ),
    _a(
        "attend-weights-not-rescaled",
        "weight = weight * kept + ",
        "weight = weight + ",
        "the sum of weights forgets that the maximum grew",
    ),
    _a(
        "attend-maximum-of-the-step",
        "now = tl.maximum(most, tl.max(score, axis=1))",
        "now = tl.max(score, axis=1)",
        "the maximum is the step's own: weights of earlier steps overflow, or are lost where nothing is seen",
    ),
    _a(
        "attend-no-maximum",
        'base = tl.where(now == -float("inf"), 0.0, now)',
        'base = tl.where(now == -float("inf"), 0.0, 0.0 * now)',
        "exponentials of large scores overflow",
    ),
    _a(
        "attend-nothing-seen-is-nan",
        'base = tl.where(now == -float("inf"), 0.0, now)',
        "base = now",
        "a step without a place that is seen spoils those behind it",
    ),
    # --- groups, places, parts
    _a(
        "attend-values-of-the-first-group",
        "v_ptr += text * v_text + group * v_group",
        "v_ptr += text * v_text",
        "values are those of the first group",
    ),
    _a(
        "attend-heads-strided-by-groups",
        "head = group * SHARED + row",
        "head = row * groups + group",
        "a head reads the keys of another group",
    ),
    _a(
        "attend-places-beyond-the-end",
        "        inside = place < end\n",
        "        inside = place <= end\n",
        "one place too many is seen in every part",
    ),
    _a(
        "attend-parts-overlap",
        "        inside = place < end\n",
        "        inside = place < places\n",
        "the last step of a part takes places of the next one",
    ),
    _a(
        "attend-parts-without-an-end",
        "    end = min(begin + part, places)\n",
        "    end = places\n",
        "a part goes on to the last place",
    ),
    _a(
        "attend-rows-unmasked",
        "    there = row < SHARED\n",
        "    there = row <= SHARED\n",
        "one head more than the group has is written",
    ),
    # --- joining
    _a(
        "attend-join-without-maxima",
        '    kept = tl.exp2(most - tl.where(top == -float("inf"), 0.0, top))\n',
        "    kept = tl.exp2(tl.where(there, 0.0, most))\n",
        "parts are joined as if their maxima were one",
    ),
    _a(
        "attend-join-sums-weights-as-they-are",
        "tl.sum(weight * kept, axis=0)",
        "tl.sum(weight, axis=0)",
        "parts' weights are summed without their maxima",
    ),
    _a(
        "attend-join-without-the-last-part",
        "    there = part < parts\n",
        "    there = part < parts - 1\n",
        "the last part is left out",
    ),
    _a(
        "attend-parts-left-out",
        "return -(-places // size), size",
        "return places // size, size",
        "places that do not fill a part are left out",
    ),
    # --- what is taken
    _t(
        "attend-takes-masks-of-heads",
        "mask.shape[1:] != (1, 1, places)",
        "mask.shape[2:] != (1, places)",
        "heads that have a mask each are masked as the first one",
    ),
    _t(
        "attend-takes-masks-of-more-texts",
        " or mask.shape[0] not in (1, texts)",
        "",
        "a mask of other texts is taken",
    ),
    _t(
        "attend-takes-masks-of-numbers",
        "mask.dtype != torch.bool and not mask.is_floating_point()",
        "mask.dtype is None",
        "a mask of whole numbers is added",
    ),
    _t(
        "attend-takes-rows-with-gaps",
        "all(each.stride(-1) == 1 for each in given)",
        "all(each.stride(-1) == 1 for each in given[1:])",
        "a query with gaps is read without them",
    ),
    _t(
        "attend-takes-more-tokens",
        "not alike or tokens != 1 or",
        "not alike or",
        "of several tokens the first one attends",
    ),
    _t(
        "attend-takes-other-texts",
        "key.shape != (texts, groups, places, width)",
        "key.shape[3] != width",
        "keys of one text are read as those of each",
    ),
    _t(
        "attend-takes-what-is-trained",
        "torch.is_grad_enabled() and any",
        "torch.is_inference_mode_enabled() and any",
        "what is trained gets no gradient",
    ),
    _t(
        "attend-takes-more-sums",
        "min(MOST_ROWS, MOST_SUMS // width)",
        "MOST_ROWS",
        "wide heads of large groups need more shared memory than there is",
    ),
    _t(
        "attend-takes-heads-without-a-group",
        "heads % groups or heads",
        "heads",
        "heads that no group is left for are not written",
    ),
)
