"""A small problem, and each score as its paper or program writes it: one number at a time in float64."""

import hashlib
import math
from dataclasses import replace
from statistics import median_low

import torch
from scipy.optimize import bisect

from crossalign.methods.method import ScoreConfig
from crossalign.methods.registry import METHODS
from crossalign.methods.scoring import class_scores, text_features_of
from crossalign.text.prompts import PromptInputs

WIDTH = 12
IMAGE_SCALE, TEXT_SCALE, LOGIT_SCALE = 3.0, 1.5, 9.0
CONFIG = ScoreConfig(IMAGE_SCALE, TEXT_SCALE, logit_scale=LOGIT_SCALE)
SIX = ("clip", "clip-e", "clip-d", "waffle", "cupl", "wca")
LATER = ("bifta", "autoclip", "zero", "mta", "awt", "lazsl", "soft-matching", "cgbc", "mean-views", "max-views")
TRANSDUCTIVE = ("transclip", "stata", "carprt")
ALONE = {name: method for name, method in METHODS.items() if not method.transductive}
NAMES = ("cat", "owl", "cup of coffee")
SENTENCES = (("A cat has whiskers.", "A cat is small."), ("An owl has wings.",), ("It is hot.", "Steam.", "A saucer."))
INPUTS = PromptInputs(
    NAMES,
    templates=("a photo of a {}.", "a sketch of the {}."),
    descriptors=(("has fur", "a pet"), ("has a beak",), ("foam", "has a handle", "may be round")),
    sentences=SENTENCES,
    seed=4,
)
TEXTS = {
    "clip": [["a photo of a cat."], ["a photo of a owl."], ["a photo of a cup of coffee."]],
    "clip-e": [
        ["a photo of a cat.", "a sketch of the cat."],
        ["a photo of a owl.", "a sketch of the owl."],
        ["a photo of a cup of coffee.", "a sketch of the cup of coffee."],
    ],
    "clip-d": [
        ["cat, which has fur", "cat, which is a pet"],
        ["owl, which has a beak"],
        ["cup of coffee, which has foam", "cup of coffee, which has a handle", "cup of coffee, which may be round"],
    ],
}
TEXTS |= dict.fromkeys(("zero", "mta", "transclip", "stata"), TEXTS["clip"])
TEXTS |= dict.fromkeys(("autoclip", "carprt"), TEXTS["clip-e"])
TEXTS |= {
    name: [list(texts) for texts in SENTENCES]
    for name in ("cupl", "wca", "bifta", "awt", "lazsl", "soft-matching", "cgbc", "mean-views", "max-views")
}


def unit(*shape, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x / x.norm(dim=-1, keepdim=True)).float()


def encode(texts):
    """Give every text a direction of its own."""
    return torch.stack([unit(WIDTH, seed=int(hashlib.md5(text.encode()).hexdigest()[:8], 16)) for text in texts])


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def mixed(vectors, weights):
    return [sum(w * v[d] for w, v in zip(weights, vectors, strict=True)) for d in range(WIDTH)]


def softmax_weights(vectors, anchor, scale):
    powers = [math.exp(math.exp(scale) * dot(v, anchor)) for v in vectors]
    return [p / sum(powers) for p in powers]


def loop_score(method, texts, name, x0, views, form):
    """Score one class for one image as the papers write it."""
    ys = encode(texts).double().tolist()
    if method.name == "mean-views":
        image, text = mixed(views, [1 / len(views)] * len(views)), mixed(ys, [1 / len(ys)] * len(ys))
    elif method.uses_views:
        anchor = encode([f"a photo of a {name}."])[0].double().tolist()
        image = mixed(views, softmax_weights(views, x0, IMAGE_SCALE))
        text = mixed(ys, softmax_weights(ys, anchor, TEXT_SCALE))
    else:
        image, text = x0, mixed(ys, [1 / len(ys)] * len(ys))
    norms = math.sqrt(dot(image, image) * dot(text, text)) if form == "released" else 1
    return dot(image, text) / norms


def method_of(name):
    """Give a method prompts that INPUTS have."""
    other = {"autoclip": "templates", "carprt": "templates", "cgbc": "sentences"}
    return replace(METHODS[name], prompts=other.get(name, METHODS[name].prompts))


def texts_of(name):
    return text_features_of(method_of(name), INPUTS, encode, CONFIG)


def by_class(texts):
    parts = iter(texts.texts)
    return [[next(parts) for _ in range(count)] for count in texts.counts.tolist()]


def scores_of(name, x0, views, texts=None, **options):
    method = METHODS[name]
    method = replace(method, options={**method.options, **options})
    return class_scores(method, texts or texts_of(name), x0, views, CONFIG)


def softmax(values):
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def entropy(logits):
    return -sum(p * math.log(p) for p in softmax(logits) if p > 0)


def loop_sinkhorn(similarity, rows, columns, epsilon, rounds):
    """Run Sinkhorn's algorithm on one problem for some rounds; the plan, and how far r moved in the last one."""
    kernel = [[math.exp((s - 1) / epsilon) for s in row] for row in similarity]
    r, c = [1.0] * len(rows), [1.0] * len(columns)
    for _ in range(rounds):
        before = r
        r = [mass / dot(row, c) for mass, row in zip(rows, kernel, strict=True)]
        c = [mass / dot(column, r) for mass, column in zip(columns, zip(*kernel, strict=True), strict=True)]
    moved = [abs(new - old) for new, old in zip(r, before, strict=True)]
    return [[r[m] * value * c[n] for n, value in enumerate(row)] for m, row in enumerate(kernel)], moved


def carried(problems, epsilon):
    """Solve some problems until r moves less than 0.01 on average over all of them: what their plans carry."""
    for rounds in range(1, 101):
        plans, moved = zip(*(loop_sinkhorn(*problem, epsilon, rounds) for problem in problems), strict=True)
        if sum(map(sum, moved)) / sum(map(len, moved)) < 1e-2:
            break
    return [
        sum(dot(mass, row) for mass, row in zip(plan, problem[0], strict=True))
        for plan, problem in zip(plans, problems, strict=True)
    ]


def loop_awt(x0, views, ys, image_temperature=0.5, text_temperature=0.5, epsilon=0.1):
    means = [mixed(of_class, [1 / len(of_class)] * len(of_class)) for of_class in ys]
    views = [x0, *views]
    w = softmax([-entropy([LOGIT_SCALE * dot(view, mean) for mean in means]) / image_temperature for view in views])
    base = [LOGIT_SCALE * dot(x0, mean) for mean in means]
    problems = []
    for label, of_class in enumerate(ys):
        replaced = [[*base[:label], LOGIT_SCALE * dot(x0, y), *base[label + 1 :]] for y in of_class]
        v = softmax([-entropy(logits) / text_temperature for logits in replaced])
        problems.append(([[dot(view, y) for y in of_class] for view in views], w, v))
    return carried(problems, epsilon)


def loop_lazsl(x0, views, ys, alpha=0.8, epsilon=0.1):
    similarity = [dot(view, x0) for view in views]
    above = [value >= sum(similarity) / len(similarity) for value in similarity]
    masses, scores = [flag / sum(above) for flag in above], []
    for of_class in ys:
        s = [[(1 - alpha) * dot(x0, y) + alpha * dot(view, y) for y in of_class] for view in views]
        scores += carried([(s, masses, [1 / len(of_class)] * len(of_class))], epsilon)
    return scores


def loop_soft_matching(x0, views, ys, temperature=0.03):
    scores = [0.0] * len(ys)
    for view in views:
        p = iter(softmax([dot(view, y) / temperature for of_class in ys for y in of_class]))
        for label, of_class in enumerate(ys):
            scores[label] += sum(next(p) * dot(view, y) for y in of_class) / len(views)
    return scores


def loop_max_views(x0, views, ys):
    means = [mixed(of_class, [1 / len(of_class)] * len(of_class)) for of_class in ys]
    return [max(dot(view, mean) / math.sqrt(dot(view, view) * dot(mean, mean)) for view in views) for mean in means]


def loop_autoclip(x0, views, ys, beta=0.85):
    templates = range(len(ys[0]))
    e = [[dot(x0, of_class[i]) for of_class in ys] for i in templates]

    def scores(rho):
        w = softmax(rho)
        return [sum(w[i] * e[i][j] for i in templates) for j in range(len(ys))]

    def log_sum(rho):
        return math.log(sum(math.exp(s) for s in scores(rho)))

    step = 1e-5
    nudges = [[step * (i == k) for k in templates] for i in templates]
    gradient = [(log_sum(nudge) - log_sum([-x for x in nudge])) / (2 * step) for nudge in nudges]
    target = beta * math.log(len(ys[0]))
    alpha = bisect(lambda alpha: entropy([alpha * g for g in gradient]) - target, 0, 1e7, xtol=1e-2, rtol=1e-2)
    return scores([alpha * g for g in gradient])


def loop_cgbc(x0, views, ys, lambda_threshold=2.5):
    scores = []
    for of_class in ys:
        s = [LOGIT_SCALE * dot(x0, y) for y in of_class]
        centre = median_low(s)
        deviation = median_low([abs(value - centre) for value in s]) + 1e-6
        rho = sum(abs(value - centre) > lambda_threshold * deviation for value in s) / len(s)
        kappa = min(4, max(0.1, math.log((1 - rho) / rho))) if rho else 4
        w = [1 / (1 + math.exp(-kappa * (value - centre) / deviation)) for value in s]
        scores.append(dot(w, s) / sum(w) / LOGIT_SCALE)
    return scores


LOOPS = {
    "awt": loop_awt,
    "lazsl": loop_lazsl,
    "soft-matching": loop_soft_matching,
    "max-views": loop_max_views,
    "autoclip": loop_autoclip,
    "cgbc": loop_cgbc,
}
