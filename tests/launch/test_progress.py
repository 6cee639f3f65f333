"""The live area and the plain lines of a launch."""

from __future__ import annotations

import io
import re
import threading
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console

from ablate.core.text import duration, fit, hours, printable
from ablate.execution.base import Event
from ablate.launch.progress import Progress, bar
from ablate.spaces.specs import TrialSpec
from tests.support.helpers import until

ODD = "[bold]C-cutmix[/bold] \x1b[31m\n混合 with a label that goes on and on beyond any terminal's width"


def plan_with(rows: dict[str, list[str]], seeds: tuple[int, ...] = (0,), **actions: str) -> SimpleNamespace:
    trainings = {
        key: SimpleNamespace(
            key=key,
            rows=names,
            action=actions.get(key, "train"),
            spec=TrialSpec(seed=seeds[-1]),
        )
        for key, names in rows.items()
    }
    return SimpleNamespace(spaces=[SimpleNamespace(name="batch_size")], seeds=list(seeds), trainings=trainings)


class Bench:
    """A progress with a clock in the test's hand."""

    def __init__(self, plan: SimpleNamespace, width: int = 100, height: int = 40, terminal: bool = True) -> None:
        self.stream = io.StringIO()
        self.now = 0.0
        console = Console(
            file=self.stream, width=width, height=height, force_terminal=terminal, highlight=False, legacy_windows=False
        )
        self.logs: dict[str, str] = {}
        self.progress = Progress(
            plan,  # type: ignore[arg-type]
            console,
            log=lambda key: self.logs.get(key, ""),
            clock=lambda: self.now,
        )

    def tell(self, key: str, kind: str, done: int = 0, total: int = 0, after: float = 0.0, **more: object) -> None:
        self.now += after
        self.progress.handle(Event(key, kind, done, total, **more))  # type: ignore[arg-type]

    def lines(self) -> list[str]:
        return [text.plain for text in self.progress.lines()]

    def line(self, label: str) -> str:
        [line] = [line for line in self.lines() if line.startswith(label)]
        return line

    @property
    def text(self) -> str:
        return self.stream.getvalue()


def metrics(loss: float = 1.5, accuracy: float = 34.56, speed: float = 12345.0) -> dict[str, float]:
    return {"train/loss": loss, "train/accuracy_attack": accuracy, "images_per_second": speed}


def five(**actions: str) -> SimpleNamespace:
    return plan_with({key: [f"batch_size/row-{key}"] for key in "abcde"}, **actions)


@pytest.mark.parametrize("width", [20, 40, 60, 100])
def test_every_active_training_has_a_line_within_the_width(width: int) -> None:
    bench = Bench(plan_with({**{key: [f"batch_size/{key}"] for key in "abc"}, "d": [f"batch_size/{ODD}"]}), width)
    for key in "abcd":
        bench.tell(key, "started", 0, 120)
        bench.tell(key, "epoch", 7, 120, after=3, metrics=metrics())
    lines = bench.lines()
    assert max(cell_len(line) for line in lines) <= width
    assert all("\x1b" not in line and "\n" not in line for line in lines)
    assert [line[0] for line in lines[1:4]] == ["a", "b", "c"]
    assert lines[4].startswith("[bol")  # markup is text


def test_a_line_tells_state_loss_accuracy_speed_and_time_left() -> None:
    bench = Bench(five())
    bench.tell("a", "started", 0, 10)
    bench.tell("a", "epoch", 0, 10, after=30, metrics={"energy/ratio": 2.0})
    bench.tell("a", "epoch", 1, 10, after=6, metrics=metrics())
    line = bench.line("row-a")
    for part in ("epoch 1/10", "1.5", "34.6 %", "12,345", "54 s"):
        assert part in line


def test_time_left_falls_and_comes_from_this_run_alone() -> None:
    bench = Bench(five())
    bench.tell("a", "started", 100, 120)
    left = []
    for epoch in range(101, 120):
        bench.tell("a", "epoch", epoch, 120, after=10, metrics=metrics())
        left.append(" ".join(bench.line("row-a").split()[-2:]))
    assert left == [duration(10 * (120 - epoch)) for epoch in range(101, 120)]
    bench.now += 5
    assert " ".join(bench.line("row-a").split()[-2:]) == duration(5)
    bench.now += 500
    assert " ".join(bench.line("row-a").split()[-2:]) == duration(0)


def test_setting_up_does_not_count_once_epochs_are_seen() -> None:
    bench = Bench(five())
    bench.tell("a", "started", 0, 10)
    bench.tell("a", "epoch", 1, 10, after=100, metrics=metrics())
    bench.tell("a", "epoch", 2, 10, after=1, metrics=metrics())
    assert " ".join(bench.line("row-a").split()[-2:]) == duration(8)


def test_no_time_left_before_anything_is_known() -> None:
    bench = Bench(five())
    bench.tell("a", "started", 0, 10)
    assert bench.line("row-a").split() == ["row-a", "starting"]


def test_the_whole_launch_has_a_bar_its_age_and_the_time_it_takes_yet() -> None:
    bench = Bench(five(c="reuse"))
    assert not [line for line in bench.lines() if "so far" in line]  # nothing runs yet
    bench.tell("a", "started", 0, 10)
    for epoch in (1, 2, 3):
        bench.tell("a", "epoch", epoch, 10, after=6, metrics=metrics())
    # 7 epochs of 6 s, and three more trainings of a minute: what is reused takes no time.
    [line] = [line for line in bench.lines() if "so far" in line]
    assert line == f"{bar(18 / 240, 20)} 8 % · 18 s so far · about 3.7 min left"
    bench.tell("b", "started", 0, 10)
    bench.tell("b", "epoch", 1, 10, after=6, metrics=metrics())
    bench.tell("b", "epoch", 2, 10, after=6, metrics=metrics())
    [two] = [line for line in bench.lines() if "so far" in line]
    assert "30 s so far · about 99 s left" in two  # 30 and 48 s, and two more of 60 s, by two at a time


def test_what_takes_longer_than_expected_is_never_whole() -> None:
    bench = Bench(five(b="reuse", c="reuse", d="reuse", e="reuse"))
    bench.tell("a", "started", 0, 2)
    for epoch in (1, 2):
        bench.tell("a", "epoch", epoch, 2, after=6, metrics=metrics())
    bench.now += 600
    [line] = [line for line in bench.lines() if "so far" in line]
    assert " 99 % " in line and line.endswith(" so far · nearly done")


def test_what_goes_on_before_the_first_training_is_said() -> None:
    bench = Bench(five())
    bench.progress.phase = "Starting Ray…"
    bench.now = 3.0
    assert bench.lines()[0] == "Starting Ray… 3 s"
    bench.tell("a", "started", 0, 10)
    assert not [line for line in bench.lines() if "Ray" in line]


def test_bars_are_as_long_as_asked_and_fill_up() -> None:
    assert [bar(share, 4) for share in (-1, 0, 0.25, 0.99, 1, 7)] == ["────", "────", "━───", "━━━─", "━━━━", "━━━━"]
    assert bar(0.5, 4, plain=True) == "##.."
    bench = Bench(five(), width=100)
    bench.tell("a", "started", 0, 10)
    bench.tell("a", "epoch", 5, 10, after=1, metrics=metrics())
    assert "━━━━━─────" in bench.line("row-a") and bar(1, 10) not in bench.line("row-a")


@pytest.mark.parametrize(
    ("attack", "said"),
    [({}, "% PGD-7"), ({"steps": 10}, "% PGD-10"), ({"name": "n_fgsm"}, "% N-FGSM"), ({"name": "none"}, "% natural")],
)
def test_an_accuracy_says_what_it_is_under(attack: dict[str, object], said: str) -> None:
    plan = plan_with({"a": ["batch_size/a"]})
    plan.trainings["a"].spec = TrialSpec.model_validate({"training": {"attack": attack}})
    bench = Bench(plan)
    bench.tell("a", "started", 0, 10)
    bench.tell("a", "epoch", 0, 10, metrics={"train/accuracy_natural": 10.0})
    assert "10.0 % natural" in bench.line("a")  # of the untrained network
    bench.tell("a", "epoch", 1, 10, metrics=metrics())
    assert said in bench.line("a")


def test_a_training_that_fell_back_is_paced_anew() -> None:
    bench = Bench(five())
    for epoch in (1, 2, 3):
        bench.tell("a", "epoch", epoch, 10, after=10, metrics=metrics())
    bench.tell("a", "epoch", 2, 10, after=10, metrics=metrics())
    bench.tell("a", "epoch", 3, 10, after=20, metrics=metrics())
    assert " ".join(bench.line("row-a").split()[-2:]) == duration(7 * 20)


def test_measuring_shows_what_and_how_many() -> None:
    bench = Bench(five())
    bench.tell("a", "epoch", 10, 10, metrics=metrics())
    bench.tell("a", "measuring", 2, 8, after=5, text="cw20_exact_and_more")
    assert " 2/8" in bench.line("row-a")
    assert "cw20_exa" in bench.line("row-a")
    bench.tell("a", "measured", 3, 8, after=5)
    assert " ".join(bench.line("row-a").split()[-2:]) == duration(25)


def test_time_left_of_measurements_goes_by_their_work_and_not_by_their_count() -> None:
    bench = Bench(five())
    bench.tell("a", "measuring", 0, 4, text="natural", share=0.0)
    bench.tell("a", "measured", 3, 4, after=10, text="pgd20", share=0.1)
    assert " ".join(bench.line("row-a").split()[-2:]) == duration(90)
    bench.tell("a", "measuring", 3, 4, after=20, text="heat_map 25 %", share=0.3)
    assert "heat_… 25% 3/4" in bench.line("row-a")  # how far it is, whatever must be cut
    assert " ".join(bench.line("row-a").split()[-2:]) == duration(70)


def test_the_rest_is_counted() -> None:
    bench = Bench(five(a="reuse", b="wait", c="failed"))
    assert bench.progress.count() == "1 done · 0 running · 2 to go · 1 waiting · 1 failed"
    bench.tell("d", "started", 0, 10)
    assert bench.progress.count() == "1 done · 1 running · 1 to go · 1 waiting · 1 failed"
    bench.tell("d", "finished")
    bench.tell("e", "failed", text="loss became nan")
    assert bench.progress.count() == "2 done · 0 running · 0 to go · 1 waiting · 2 failed"
    bench.tell("e", "started", 0, 10)
    assert bench.progress.count() == "2 done · 1 running · 0 to go · 1 waiting · 1 failed"
    assert bench.lines()[-1] == bench.progress.count()


def test_a_wait_that_another_launch_ended_is_counted_as_done() -> None:
    plan = five(b="wait")
    bench = Bench(plan)
    plan.trainings["b"].action = "reuse"
    assert bench.progress.count() == "1 done · 0 running · 4 to go"


def test_a_finished_training_has_no_line() -> None:
    bench = Bench(five())
    bench.tell("a", "started", 0, 10)
    bench.tell("b", "started", 0, 10)
    bench.tell("a", "finished")
    assert not [line for line in bench.lines() if line.startswith("row-a")]
    assert bench.line("row-b")


def test_more_trainings_than_the_terminal_has_lines_are_counted() -> None:
    bench = Bench(plan_with({f"{n:02d}": [f"batch_size/{n:02d}"] for n in range(30)}), height=12)
    for n in range(30):
        bench.tell(f"{n:02d}", "started", 0, 10)
    lines = bench.lines()
    assert len(lines) < 12
    assert "and 23 more" in lines
    assert lines[-1].startswith("0 done · 30 running")


def test_shared_rows_and_seeds_stand_in_the_label() -> None:
    bench = Bench(plan_with({"a": ["batch_size/512", "lowpass/32", "lowpass/28"]}, seeds=(0, 1)))
    bench.tell("a", "started", 0, 10)
    assert bench.line("512 +2 seed 1")


def test_plain_lines_in_a_file_one_per_while_without_escape_codes() -> None:
    bench = Bench(five(), width=80, terminal=False)
    with bench.progress:
        bench.tell("a", "started", 0, 100)
        for epoch in range(1, 101):
            bench.tell("a", "epoch", epoch, 100, after=1, metrics=metrics())
        bench.tell("a", "finished")
        bench.tell("b", "started", 0, 100)
        bench.tell("b", "failed", text=ODD)
    lines = bench.text.splitlines()
    assert "\x1b" not in bench.text
    assert max(cell_len(line) for line in lines) <= 80
    epochs = [line for line in lines if line.startswith("row-a: epoch")]
    assert len(epochs) == 10
    assert "loss 1.500, accuracy 34.6 % PGD-7, 12,345 images/s" in epochs[0]
    assert sum("starts at epoch 0 of 100" in line for line in lines) == 2
    assert any(line.startswith("row-a: finished in 100 s, loss 1.500") for line in lines)
    assert any(line.startswith("row-b: failed: [bold]C-cutmix[/bold]") for line in lines)
    assert lines[-1] == "1 done · 0 running · 3 to go · 1 failed"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failure_is_followed_by_the_place_of_its_log_in_one_line(terminal: bool) -> None:
    bench = Bench(five(), width=40, terminal=terminal)
    bench.logs["a"] = f"s3://me:secret@bucket/{'a' * 60}/log.txt"
    with bench.progress:
        bench.tell("a", "failed", text="ValueError: no (/home/me/my_loss.py:7)")
        bench.tell("b", "failed", text="it never began")
    told = [re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", line).strip() for line in bench.text.splitlines()]
    assert [line for line in told if line.startswith("its log:")] == [f"its log: s3://***@bucket/{'a' * 60}/log.txt"]


def test_the_live_area_draws_and_leaves_the_history() -> None:
    bench = Bench(five(), width=60)
    with bench.progress:
        bench.tell("a", "started", 0, 10)
        bench.progress.note("warning: [red]disk[/red] is nearly full")
        bench.progress.note("a remark")
        bench.tell("a", "epoch", 1, 10, metrics=metrics(), text="a damaged checkpoint was passed over")
        until(lambda: "epoch 1/10" in bench.text)
        bench.tell("a", "finished")
    for part in ("warning: [red]disk[/red]", "a remark", "row-a: a damaged", "epoch 1/10", "row-a: finished"):
        assert part in bench.text
    assert "\x1b[" in bench.text


def test_starting_again_is_told() -> None:
    bench = Bench(five(), terminal=False)
    bench.tell("a", "started", 0, 10)
    bench.tell("a", "started", 4, 10)
    assert "warning: row-a: started again at epoch 4" in bench.text


def test_waiting_is_said_once() -> None:
    bench = Bench(five(b="wait"), terminal=False)
    bench.progress.waiting(["b"])
    bench.progress.waiting(["b", "c"])
    assert bench.text.count("row-b: another launch") == 1
    assert bench.text.count("row-c: another launch") == 1


def test_events_of_other_trainings_are_passed_over() -> None:
    bench = Bench(five(), terminal=False)
    bench.tell("z", "started", 0, 10)
    assert bench.text == ""


def test_many_threads_may_tell() -> None:
    bench = Bench(plan_with({f"{n:02d}": [f"batch_size/{n:02d}"] for n in range(8)}))

    def run(n: int) -> None:
        bench.tell(f"{n:02d}", "started", 0, 50)
        for epoch in range(1, 51):
            bench.tell(f"{n:02d}", "epoch", epoch, 50, metrics=metrics())
        bench.tell(f"{n:02d}", "finished" if n % 2 else "failed")

    with bench.progress:
        threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert bench.progress.count() == "4 done · 0 running · 0 to go · 4 failed"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (0.01, "< 1 s"),
        (0.49, "< 1 s"),
        (0.51, "1 s"),
        (47.2, "47 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (150, "2.5 min"),
        (596, "9.9 min"),
        (598, "10 min"),
        (3118, "52 min"),
        (3569, "59 min"),
        (3599, "1h 00m"),
        (3600, "1h 00m"),
        (86340, "23h 59m"),
        (86399, "1d 00h"),
        (90000, "1d 01h"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0"), (1, "under 0.01"), (900, "0.25"), (5400, "1.5"), (36_000, "10"), (118_920_000, "33,000")],
)
def test_hours_have_two_digits_and_no_exponent(seconds: float, text: str) -> None:
    assert hours(seconds) == text


@pytest.mark.parametrize("width", range(0, 12))
@pytest.mark.parametrize("text", ["", "a", "abcdefghijkl", "混合混合混合混合"])
def test_fit_gives_exactly_so_many_cells(text: str, width: int) -> None:
    assert cell_len(fit(text, width)) == width
    assert cell_len(fit(text, width, right=True)) == width


def test_printable_has_no_control_characters() -> None:
    assert printable("a\x1b[31m\n\tb\u202e") == "a [31m b"
    assert printable("\n  set in: a   b \n") == "  set in: a   b"  # columns and indentation are meant
