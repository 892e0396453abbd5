"""Train deep networks on handwritten digits, with and without batch norm.

    python examples/train_digits.py [--steps 400] [--output train_digits.png] [--quick]

A sigmoid and a ReLU network, five hidden layers deep, learn scikit-learn's 1,797 scanned digits
from several scales of initial weights. Every network is trained at every learning rate, and each
side, with batch norm and without, is judged at the rate that suits it best. Then fastbn is timed
beside plain NumPy on the batch sizes of that run.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from timeit import timeit

import command_line
import digits_report
import numpy as np
from digits_data import TRAINING_SCANS, load_scans
from digits_network import ACTIVATIONS, Network
from rich.console import Console
from threadpoolctl import threadpool_limits

import fastbn
from fastbn._bench import numpy_batchnorm

WIDTH, DEPTH = 100, 5
BATCH = 100
WEIGHT_SCALES = (0.01, 0.03, 0.1, 0.3, 1.0)
LEARNING_RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
EVALUATE_EVERY = 5  # steps
TARGET = 0.9  # accuracy on the test scans


@dataclass
class Run:
    """One training of one network: its setting, and the curve that came of it."""

    network: str
    weight_scale: float
    batch_norm: bool
    learning_rate: float
    steps: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    overflowed: bool = False
    seconds_per_step: float = 0.0

    @property
    def steps_to_target(self):
        """First step seen with TARGET accuracy on the test scans; inf if there is none."""
        curve = zip(self.steps, self.accuracy, strict=True)
        return next((step for step, a in curve if a >= TARGET), float("inf"))


def train(run, steps, training, test):
    """Train the network of a run and write down its curve, up to where its loss overflows."""
    rng = np.random.default_rng(1)  # the same batches, and the same weights but for their scale
    x, labels = training
    sizes = (x.shape[1], *[WIDTH] * DEPTH, 10)
    network = Network(sizes, run.network, np.float32(run.weight_scale), run.batch_norm, rng)
    rate = np.float32(run.learning_rate)
    durations = []
    for step in range(1, steps + 1):
        batch = rng.choice(len(x), BATCH, replace=False)
        start = time.perf_counter()
        loss = network.train(x[batch], labels[batch], rate)
        durations.append(time.perf_counter() - start)
        run.overflowed = not np.isfinite(loss)
        if run.overflowed or step % EVALUATE_EVERY == 0 or step == steps:
            run.steps.append(step)
            run.accuracy.append(network.accuracy(*test))
        if run.overflowed:
            break
    run.seconds_per_step = float(np.median(durations))


def sweep(runs, steps, console):
    """Train all the runs, behind a progress bar."""
    training, test = load_scans()
    # two threads wait for each other where others use the processor, which products of matrices as
    # small as these do not repay
    limits = threadpool_limits(1, user_api="blas")
    with limits, digits_report.bar(console) as progress, np.errstate(all="ignore"):
        task = progress.add_task("loading the kernels (the first time: compiling)", total=len(runs))
        train(Run("ReLU", 0.1, True, 0.1), 1, training, test)
        for run in runs:
            side = "with" if run.batch_norm else "without"
            setting = f"{run.network}, weight scale {run.weight_scale:g}, {side} batch norm"
            progress.update(task, description=f"{setting:<47}")
            train(run, steps, training, test)
            progress.advance(task)


def best_runs(runs):
    """{(network, weight scale, batch norm): the run at the learning rate that suits it best}."""
    best = {}
    for run in runs:
        key = run.network, run.weight_scale, run.batch_norm
        # sooner at the target; if that is equal, more accurate at the end
        best[key] = min(best.get(key, run), run, key=lambda r: (r.steps_to_target, -r.accuracy[-1]))
    return best


def time_batch_norm(rows, rounds=30, number=20):
    """Seconds per call, {(library, pass): s}: the least of interleaved rounds on (rows, WIDTH)."""
    # once a large block was freed, the C library keeps NumPy's temporary arrays for the next call;
    # before that each call may take five times as long, depending on what the process did earlier
    np.empty(31 << 20, np.uint8)
    rng = np.random.default_rng(2)
    x, dout = rng.standard_normal((2, rows, WIDTH), dtype=np.float32)
    gamma, beta = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    calls = {}
    for name, library in (("NumPy", numpy_batchnorm), ("fastbn", fastbn)):
        arguments = x, gamma, beta, {"mode": "train"}
        _, cache = library.batchnorm_forward(*arguments)
        calls[name, "forward"] = partial(library.batchnorm_forward, *arguments)
        calls[name, "backward"] = partial(library.batchnorm_backward, dout, cache)
    times = [
        [timeit(call, number=number) / number for call in calls.values()] for _ in range(rounds)
    ]
    return dict(zip(calls, np.min(times, axis=0), strict=True))


def main():
    """Read the command line, train, report."""
    parser = command_line.new_parser(__doc__, "train_digits.png")
    parser.add_argument("--steps", type=int, default=400, help="training steps of a run")
    options = parser.parse_args()
    steps = min(options.steps, 60) if options.quick else options.steps
    scales = WEIGHT_SCALES[1:3] if options.quick else WEIGHT_SCALES
    rates = LEARNING_RATES[2:4] if options.quick else LEARNING_RATES

    console = Console()
    runs = [Run(*setting) for setting in product(ACTIVATIONS, scales, (False, True), rates)]
    sweep(runs, steps, console)
    best = best_runs(runs)
    times = {
        rows: time_batch_norm(rows) for rows in (BATCH, len(load_scans()[1][0]), TRAINING_SCANS)
    }

    console.print(digits_report.training_table(best, steps, TARGET))
    console.print(digits_report.timing_table(times, WIDTH))
    digits_report.draw(runs, best, TARGET, options.output)
    console.print(f"Picture: {options.output}", soft_wrap=True)
    for sentence in digits_report.summary(best, rates, steps, TARGET, times):
        console.print(sentence, highlight=False)


if __name__ == "__main__":
    main()
