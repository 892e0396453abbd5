"""See covariate shift, and undo it: between data sets, and within a network that trains.

    python examples/covariate_shift.py [--steps 400] [--output covariate_shift.png] [--quick]

First two features of unlike size are scaled by their population statistics. Then networks learn
scikit-learn's scanned digits and are tested on spoilt scans, before and after their batch norms
have adapted to these without a label (Li et al. 2016). Last, networks with and without batch norm
are watched as they train: how far does each step move what a layer is given (Ioffe & Szegedy
2015), and turn its gradient (Santurkar et al. 2018)? Two pictures are saved, under the name of
`--output` with `_layers` and `_internal` added.
"""

import copy
from dataclasses import dataclass
from itertools import product

import command_line
import digits_report
import internal_report
import numpy as np
import shift_report
from digits_data import CORRUPTIONS, load_pixels
from internal_shift import BATCH, Watched, new_network, scores, watch
from rich.console import Console
from threadpoolctl import threadpool_limits

import fastbn

CORRUPTED, RATE = ("ReLU", 0.2), np.float32(0.1)  # activation, weight scale; learning rate
WATCHED = (("ReLU", 0.2, 0.3), ("sigmoid", 1.0, 1.0))  # all sides learn at these learning rates


def scale_features(console):
    """Features of 0 to 1 beside 1 to 1000, in batches as they would come from files."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.uniform(0, 1, 10_000), rng.uniform(1, 1000, 10_000)])
    stats = fastbn.population_stats(np.array_split(x, 7))
    y = fastbn.normalize(x, stats)
    for name, data in (("before", x), ("after", y)):
        for c in data.T:
            spread = f"{c.min():z8.2f} to {c.max():z7.2f}, mean {c.mean():z6.2f}, deviation"
            console.print(f"{name:>6}: {spread} {c.std():z6.2f}", highlight=False)


@dataclass
class Tested:
    """Networks on one kind of test scans: means over them, a score per layer, pixels first."""

    kind: str
    strength: float
    accuracy: dict[str, float]  # "before", "at once", "in order"
    score: dict[str, np.ndarray]  # "before", "in order"
    infinite: np.ndarray  # most channels of infinite shift in a network, of each layer


def trained_network(seed, steps, x, labels):
    """A trained network whose batch norms hold the statistics of all training scans."""
    rng = np.random.default_rng(seed)
    network = new_network(*CORRUPTED, True, rng)
    for _ in range(steps):
        batch = rng.choice(len(x), BATCH, replace=False)
        network.train(x[batch], labels[batch], RATE)
    network.adapt(batches_of(x))  # Ioffe & Szegedy (2015), algorithm 2
    return network


def batches_of(x):
    """Parts of about BATCH scans."""
    return np.array_split(x, max(len(x) // BATCH, 1))


def layer_stats(network, x):
    """Population statistics of the pixels and of what each batch norm is given."""
    layers = zip(*([batch, *network.sums(batch)] for batch in batches_of(x)), strict=True)
    return [fastbn.population_stats(batches) for batches in layers]


def adapted_at_once(network, x):
    """The network with all batch norms adapted to what they are given now."""
    result = copy.deepcopy(network)
    sums = zip(*map(network.sums, batches_of(x)), strict=True)
    for norm, batches in zip(result.norms, sums, strict=True):
        norm.adapt(batches)
    return result


def adapted_in_order(network, x):
    """The network with each batch norm adapted to what the adapted ones below give it."""
    result = copy.deepcopy(network)
    result.adapt(batches_of(x))
    return result


def test_on(kind, strength, x, labels, networks, references):
    """The networks' shift and accuracy on these scans, before and after adapting to them."""
    accuracy, score, infinite = [], [], []
    for network, reference in zip(networks, references, strict=True):
        once, ordered = adapted_at_once(network, x), adapted_in_order(network, x)
        accuracy.append([n.accuracy(x, labels) for n in (network, once, ordered)])
        stats = [layer_stats(n, x) for n in (network, ordered)]
        score.append([scores(s, reference) for s in stats])
        shifts = map(fastbn.covariate_shift, stats[0], reference)
        infinite.append([np.isinf(shift).sum() for shift in shifts])
    return Tested(
        kind,
        strength,
        dict(zip(("before", "at once", "in order"), np.mean(accuracy, axis=0), strict=True)),
        dict(zip(("before", "in order"), np.mean(score, axis=0), strict=True)),
        np.max(infinite, axis=0),
    )


def accuracy_with_signs_turned(networks, x, labels):
    """Adapted to x, with the first batch norm's weight negated: what a negative asks for."""
    accuracies = []
    for network in networks:
        turned = adapted_in_order(network, x)
        turned.norms[0].weight *= -1
        accuracies.append(turned.accuracy(x, labels))
    return np.mean(accuracies)


def test_on_corrupted_scans(networks, training, test, progress):
    """A `Tested` of the clean test scans, and one per kind and strength of corruption."""
    (pixels, labels), mean = test, training[0].mean(axis=0)
    references = [layer_stats(network, training[0] - mean) for network in networks]
    cases = [(kind, s) for kind, (_, strengths, *_) in CORRUPTIONS.items() for s in strengths]
    clean = test_on("none", 0, pixels - mean, labels, networks, references)
    tested = []
    for kind, strength in progress.track(cases, description="spoiling scans"):
        x = CORRUPTIONS[kind][0](pixels, strength) - mean
        tested.append(test_on(kind, strength, x, labels, networks, references))
    negative = CORRUPTIONS["inversion"][0](pixels, 1.0) - mean
    return clean, tested, accuracy_with_signs_turned(networks, negative, labels)


def read_command_line():
    """The options; a message for those that cannot work, before anything is computed."""
    parser = command_line.new_parser(__doc__, "covariate_shift.png")
    parser.add_argument("--steps", type=int, default=400, help="training steps, at least 40")
    options = parser.parse_args()
    if options.steps < 40:
        parser.error(f"--steps should be at least 40, got {options.steps}")
    return options


def experiments(seeds, steps, console):
    """Train, spoil and watch behind a progress bar: (clean, spoilt, signs turned), runs."""
    training, test = load_pixels()
    mean = training[0].mean(axis=0)
    scans = [(pixels - mean, labels) for pixels, labels in (training, test)]
    settings = product(WATCHED, internal_report.SIDES, seeds[:3])
    runs = [Watched(*network, side, seed) for network, side, seed in settings]
    # products of matrices as small as these take 2 to 20 times as long on two threads when others
    # use the processor as well
    limits = threadpool_limits(1, user_api="blas")
    with limits, digits_report.bar(console) as progress, np.errstate(all="ignore"):
        tracked = progress.track(seeds, description="training networks")
        networks = [trained_network(seed, steps, *scans[0]) for seed in tracked]
        results = test_on_corrupted_scans(networks, training, test, progress)
        for run in progress.track(runs, description="watching networks train"):
            watch(run, steps, *scans)
    return results, runs


def main():
    """Read the command line; scale, spoil and watch; report."""
    options = read_command_line()
    steps = min(options.steps, 60) if options.quick else options.steps
    seeds = range(1) if options.quick else range(5)
    console = Console()
    console.print("Two features, before and after they are scaled by population statistics:")
    scale_features(console)

    (clean, tested, turned), runs = experiments(seeds, steps, console)
    groups, scans = internal_report.grouped(runs), load_pixels()[1][0]
    console.print(shift_report.table(clean, tested))
    say(console, shift_report.sentences(clean, tested, turned, len(seeds), len(scans)))
    console.print(*internal_report.tables(groups), sep="\n")
    say(console, internal_report.sentences(groups))
    stem = options.output.stem
    layers, internal = (options.output.with_stem(f"{stem}_{n}") for n in ("layers", "internal"))
    shift_report.draw(clean, tested, scans[0], layers)
    internal_report.draw(groups, internal)
    console.print(f"Pictures: {layers} and {internal}", soft_wrap=True)


def say(console, sentences):
    """A list of sentences."""
    for sentence in sentences:
        console.print(f"- {sentence}", highlight=False)


if __name__ == "__main__":
    main()
