"""What is promised of the speed, and whether a measurement keeps it.

python benchmarks/targets.py            lists the promises
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A promise: ``value`` of ``what`` in ``unit`` stays below (or, where ``least``, reaches) ``bound``."""

    what: str
    bound: float
    unit: str
    least: bool = False

    def __str__(self) -> str:
        return f"{'at least' if self.least else 'below'} {self.bound:,g} {self.unit}"

    def met(self, value: float) -> bool:
        return value >= self.bound if self.least else value < self.bound


TARGETS = {
    "claims": Target("claims on 2 cores with 4 workers", 300, "/s", least=True),
    "submit": Target("submit one run through HTTP, p95", 20, "ms"),
    "grid": Target("a grid of 1,000 cells accepted through HTTP", 1000, "ms"),
    "ingest": Target("metric ingest in batches by 4 workers", 50_000, "values/s", least=True),
    "finish": Target("finish a run of 500 slices", 100, "ms"),
    "shown": Target("a dead worker is shown, worst", 32, "s"),
    "claimed": Target("its run is claimed again, worst", 40, "s"),
    "stepping": Target("its run is at its first step again, worst", 65, "s"),
    "join": Target("a worker has claimed a run after its start, worst", 5, "s"),
    "cancel": Target("cancel, from the request to `cancelled` shown, p99", 12, "s"),
    "token": Target("the check of a token, p95", 2, "ms"),
    "request": Target("a request with a token over one without, p95", 2, "ms"),
    "look": Target("a look into the ledger for /metrics, p95", 20, "ms"),
    "list": Target("a list of runs, p95", 50, "ms"),
    "search": Target("a search for runs, p95", 50, "ms"),
    "compare": Target("a comparison of 100 runs, all columns of a profile, p95", 100, "ms"),
    "tested": Target("the same with statistics, p95", 1000, "ms"),
    "matrix": Target("500 images by 50 runs, p95", 150, "ms"),
    "window": Target("the page of 25,000 cells, p95", 500, "ms"),
    "run": Target("the page of a run, p95", 100, "ms"),
    "interactive": Target("a page interactive after its response", 500, "ms"),
    "memory": Target("memory of the API through all of it", 300, "MiB"),
    "beside_ready": Target("ready sooner than MLflow", 3, "times", least=True),
    "beside_create": Target("1,000 runs created faster, one by one", 5, "times", least=True),
    "beside_list": Target("1,000 runs listed faster", 10, "times", least=True),
    "beside_found": Target("1,000 runs found by a search faster", 10, "times", least=True),
    "beside_search": Target("runs searched among 1,000 faster", 10, "times", least=True),
    "beside_memory": Target("less memory than MLflow, all processes", 3, "times", least=True),
    "checkpoints": Target("checkpoints, one an epoch, share of training time", 5, "%"),
    "rescoring": Target("20 runs of 500 slices scored anew", 10, "s"),
    "makespan": Target("a study of eight runs over the study's own way", 0.68, "times"),
    "gap": Target("from one run's end to the next one's training call", 1, "s"),
    "resubmit": Target("a finished study submitted again, nothing trained", 1, "s"),
    "faster_fit": Target("training faster than the study's own way", 1, "times", least=True),
    "faster_pytorch": Target("training faster than PyTorch", 1, "times", least=True),
    "faster_basic": Target("training faster than MONAI's BasicUNet", 1, "times", least=True),
    "faster_strided": Target("training faster than MONAI's lighter UNet", 1, "times", least=True),
    "tile": Target("a tile of the image page, 512 x 512, p95", 80, "ms"),
}


def tell(key: str, value: float, remark: str = "") -> None:
    """Print a measurement beside its target."""
    target = TARGETS[key]
    verdict = "met" if target.met(value) else "MISSED"
    print(_line(target.what, value, target.unit, f"{target}: {verdict}{'; ' * bool(remark)}{remark}"))


def mention(what: str, value: float, unit: str, remark: str = "") -> None:
    """Print a measurement without a target."""
    print(_line(what, value, unit, remark))


def p95(values: list[float]) -> float:
    """The smallest value that 95 % do not exceed; of p99 and few values the same rule gives the largest."""
    return percentile(values, 95)


def percentile(values: list[float], percent: int) -> float:
    """The smallest value that ``percent`` % of ``values`` do not exceed (nearest rank)."""
    return sorted(values)[-(-percent * len(values) // 100) - 1]


def _line(what: str, value: float, unit: str, remark: str) -> str:
    number = f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return f"{what:52} {number + ' ' + unit:>16}   {remark}".rstrip()


if __name__ == "__main__":
    for target in TARGETS.values():
        print(f"{target.what:52} {target}")
