"""Tables from stored runs: averages, paired differences, and what is refused."""

import csv
import json
import re
import shutil
from collections import Counter
from statistics import mean, stdev

import matplotlib
import pytest
from scipy.stats import ttest_rel

import draw
import report
from analysis import pages, tables
from analysis.records import cell_of, value_of
from analysis.runs import Run, read_run
from analysis.typeset import escaped
from dataset._samples import write_csv
from utils import registry
from utils.errors import BadInput
from utils.run_folder import read_jsonl, sealed

ACCURACY = {  # written into the runs: {method: {seed: accuracy}}
    "uniform": {0: 0.50, 1: 0.60, 2: 0.55},
    "mmpareto": {2: 0.66, 1: 0.69, 0: 0.60},  # given in another order
    "pareto": {0: 0.45, 1: 0.65, 2: 0.50},
    "joint": {0: 0.40, 1: 0.41, 2: 0.42},
}
COLUMN = "minus uniform, 95% interval"


@pytest.fixture
def runs(trained, tmp_path):
    """{method and seed: a copy of a run with a known accuracy}, three seeds of each method."""
    folders = {}
    for method, by_seed in ACCURACY.items():
        for seed, accuracy in by_seed.items():
            folder = tmp_path / f"{method}{seed}"
            shutil.copytree(trained(method), folder, ignore=shutil.ignore_patterns("*.pt"))
            change(folder, random_seed=seed)
            first, last = read_jsonl(folder / "metrics.jsonl")
            first["test/accuracy/multimodal"] = 1.0  # best on test, and not in the last epoch
            last["test/accuracy/multimodal"] = accuracy
            (folder / "metrics.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(last)}\n")
            folders[folder.name] = folder
    return folders


def change(folder, part="options", **values):
    content = json.loads((folder / "options.json").read_text())
    content[part] |= values
    content.pop("checksum", None)  # as whoever changes it has to
    (folder / "options.json").write_text(json.dumps(content))


def write_probe(folder, name, scores, checkpoint="last", split="test"):
    content = {"checkpoint": checkpoint, "split": split, "scores": scores}
    (folder / f"probe_{name}.json").write_text(json.dumps(content))


@pytest.fixture
def printed(runs, capsys):
    """(flags, ...) -> what report.py prints of the runs that are left."""

    def of(*flags):
        capsys.readouterr()
        report.main([*map(str, runs.values()), *flags])
        return capsys.readouterr().out

    return of


def table(text, title="Test accuracy, %"):
    """{first cell: {column: cell}} of a Markdown table."""
    lines = text.split(f"**{title}**")[1].strip().split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(rows[0], row)) for row in rows[2:]}


def test_means_deviations_and_paired_differences(printed):
    text = printed()
    rows = table(text)
    for method, by_seed in ACCURACY.items():
        values = [100 * by_seed[seed] for seed in range(3)]
        assert rows[method]["multimodal"] == f"{mean(values):.2f} ± {stdev(values):.2f}"
        assert (
            rows[method]["n"] == "3 (few)"
            and rows[method]["best on test, as published"][:3] == "100"
        )
        if method == "uniform":
            assert rows[method][COLUMN] == ""
            continue
        reference = [100 * ACCURACY["uniform"][seed] for seed in range(3)]
        test = ttest_rel(values, reference)
        low, high = test.confidence_interval(0.95)
        expected = f"{mean(values) - mean(reference):+.2f} [{low:+.2f}, {high:+.2f}]"
        is_clear = test.pvalue <= 0.05
        assert rows[method][COLUMN] == expected + ("" if is_clear else " not distinguishable")
    assert "not distinguishable" in rows["pareto"][COLUMN]
    assert "not distinguishable" not in rows["mmpareto"][COLUMN]
    assert rows["joint"]["audio head"] == "untrained" and rows["joint"]["conflict audio"] == "-"
    assert 0.2 < float(rows["mmpareto"]["peak memory, GB"].split(" ")[0]) < 20
    assert "F1 audio head" in table(text, "Macro F1, %")["mmpareto"]
    assert "demo, cnn, concat, last of 2 epochs" in text and "commit " in text


def test_files_agree_with_what_is_printed(printed, tmp_path):
    prefix = tmp_path / "tables" / "demo"
    text = printed("--output", str(prefix))
    assert prefix.with_suffix(".md").read_text().strip() in text
    with open(prefix.with_suffix(".csv")) as file:
        rows = {
            row["method"]: row for row in csv.DictReader(file) if row["measure"] == "multimodal"
        }
    values = [60, 69, 66]
    low, high = ttest_rel(values, [50, 60, 55]).confidence_interval(0.95)
    row = rows["mmpareto"]
    expected = [3, 65, stdev(values), 10, low, high]
    columns = ["n", "mean", "std", "minus uniform", "low", "high"]
    assert [float(row[column]) for column in columns] == pytest.approx(expected, abs=1e-4)
    assert rows["uniform"]["minus uniform"] == ""
    latex = prefix.with_suffix(".tex").read_text()
    assert rf"MMPareto & \textbf{{65.00}} $\pm$ {stdev(values):.2f} & +10.00 [" in latex
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    names = [row.split(" & ")[0] for row in body]
    assert names == ["Uniform", "MMPareto", "Conventional Pareto", "One joint loss"]  # of the runs


def test_latex_has_the_columns_asked_for_and_bold_only_among_comparable_rows(
    runs, printed, tmp_path
):
    for seed in range(3):
        change(runs[f"joint{seed}"], fusion="cosine")  # nothing else is in its setting
    columns = "n,multimodal,minus uniform,F1 multimodal,conflict audio,minutes"
    text = printed("--output", str(tmp_path / "x"), "--columns", columns)
    latex = (tmp_path / "x.tex").read_text()
    rows = [line for line in latex.splitlines() if line.endswith(r" \\")]
    assert {row.count(" & ") for row in rows} == {6} and "rrrrrr}" in latex
    assert rows[
        0
    ] == r"method & n & multimodal & minus uniform, 95\% interval & F1 multimodal & " + (
        r"conflict audio & minutes \\"
    )
    by_arm = {row.split(" & ")[0]: row.split(" & ") for row in rows[1:]}
    assert [arm for arm, row in by_arm.items() if "textbf" in row[2]] == ["MMPareto"]
    assert not any("textbf" in cell for row in by_arm.values() for cell in (row[1], *row[5:]))
    assert "One joint loss, fusion cosine" in by_arm and "65.00" in text
    with pytest.raises(BadInput, match="--columns pie: no such column; choose from method, n, "):
        printed("--columns", "pie")


@pytest.mark.parametrize(
    "text, typeset",
    [
        ("a_b & 5% #1 {x} ~ ^ $", r"a\_b \& 5\% \#1 \{x\} \textasciitilde{} \textasciicircum{} \$"),
        (r"a\b", r"a\textbackslash{}b"),
        ("uniform --gamma 1 <= 2 ± 3", r"uniform -{}-gamma 1 $<$= 2 $\pm$ 3"),
        ("-1.50 [-2.00, +3.00]", "$-$1.50 [$-$2.00, +3.00]"),
        ("wide-2 1e-05", "wide-2 1e-05"),
    ],
)
def test_latex_is_escaped(text, typeset):
    assert escaped(text) == typeset


RATES = {0.001: {0: 0.5, 1: 0.5, 2: 0.4}, 0.01: {0: 0.7, 1: 0.6, 2: 0.8}}  # {rate: {seed: val}}


@pytest.fixture
def swept(runs):
    """Also runs of uniform and mmpareto at ten times the rate; {rate: {seed: validation}}."""
    for name in ("joint", "pareto"):
        for seed in range(3):
            shutil.rmtree(runs.pop(f"{name}{seed}"))
    for name, folder in list(runs.items()):
        more = folder.with_name(f"{name}-fast")
        shutil.copytree(folder, more)
        runs[more.name] = more
        rates = [0.001, 0.01]
        for of_rate, rate, others in zip((folder, more), rates, reversed(rates)):
            change(of_rate, learning_rate=rate)
            seed = int(name[-1])
            # what is best on the test split is not what is best on held-out samples
            value = RATES[rate if name.startswith("uniform") else others][seed]
            hold_out(of_rate, value, 0.99 if rate == 0.001 else None)
    return runs


def hold_out(folder, accuracy, test=None):
    """Says that the run held samples out, and what it got on them in its last epoch."""
    first, last = read_jsonl(folder / "metrics.jsonl")
    first["val/accuracy/multimodal"], last["val/accuracy/multimodal"] = 1.0, accuracy
    last["test/accuracy/multimodal"] = test or last["test/accuracy/multimodal"]
    (folder / "metrics.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(last)}\n")


def test_any_flag_is_part_of_the_name_and_a_column(swept, printed, tmp_path):
    change(swept["mmpareto0-fast"], epochs=2, batch_size=9, amp="bf16")
    text = printed("--output", str(tmp_path / "x"))
    rows = table(text)
    assert rows["uniform"]["validation"] == f"46.67 ± {stdev([50, 50, 40]):.2f}"
    assert rows["mmpareto --learning_rate 0.01"][COLUMN].startswith("+10.00 [")  # seeds 1 and 2
    assert rows["mmpareto --batch_size 9 --learning_rate 0.01 --amp bf16"]["n"] == "1 (few)"
    assert "--learning_rate 0.001 " in text.split(" unless the row says otherwise")[0]


def test_the_rate_is_selected_on_held_out_samples(swept, printed, tmp_path):
    text = printed("--select", "learning_rate", "--output", str(tmp_path / "x"))
    rows, column = table(text), "learning_rate, chosen on validation"
    assert {arm: row[column] for arm, row in rows.items()} == {
        "uniform": "0.01 (edge)",
        "mmpareto": "0.001 (edge)",
    }
    assert rows["uniform"]["multimodal"].startswith("55.00")
    assert rows["mmpareto"][COLUMN].startswith("+44.00 [")  # each with its own rate
    assert "chosen by mean accuracy on held-out samples in the last epoch" in text
    assert "learning_rate 0.01 of uniform is at the edge of what was tried, 0.001 to 0.01" in text
    assert "method & learning\\_rate, chosen on validation & " in (tmp_path / "x.tex").read_text()
    lines = (tmp_path / "x.csv").read_text().splitlines()
    assert lines[0].startswith("method,learning_rate,measure") and lines[1][:12] == "uniform,0.01"


def test_of_equals_the_smaller_value_is_selected_and_one_inside_is_no_edge(swept, printed):
    for name in ("uniform", "mmpareto"):
        for seed in range(3):
            change(swept[f"{name}{seed}"], learning_rate=0.1)  # ten times, not a tenth
            for suffix in ("", "-fast"):
                hold_out(swept[f"{name}{seed}{suffix}"], 0.5)
    slow = swept["uniform0"].with_name("slow")
    shutil.copytree(swept["uniform0"], slow)
    change(slow, learning_rate=0.001)
    hold_out(slow, 0.4)
    swept["slow"] = slow
    text = printed("--select", "learning_rate")
    rows, column = table(text), "learning_rate, chosen on validation"
    assert rows["uniform"][column] == "0.01" and rows["mmpareto"][column] == "0.01 (edge)"
    assert "not all values of uniform have the same seeds" in text


def test_what_cannot_be_selected_is_named(swept, printed):
    message = "--select gama: does not differ among these runs; choose from learning_rate"
    with pytest.raises(BadInput, match=message):
        printed("--select", "gama")
    folder = swept["uniform1"]
    text = (folder / "metrics.jsonl").read_text().replace("val/", "other/")
    (folder / "metrics.jsonl").write_text(text)
    with pytest.raises(BadInput, match="uniform1 held no samples out .*; train with --val_fractio"):
        printed("--select", "learning_rate")


def test_conflicts_are_counted_once_and_again_when_steps_change(trained, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(trained("mmpareto"), folder, ignore=shutil.ignore_patterns("*.pt"))
    rates = read_run(folder).conflicts
    with monkeypatch.context() as patch:
        patch.setattr(Run, "read_steps", None)  # cannot be counted
        assert read_run(folder).conflicts == rates
    steps = [step | {"cosine/audio": -1.0} for step in read_jsonl(folder / "steps.jsonl")]
    (folder / "steps.jsonl").write_text("".join(sealed(step) + "\n" for step in steps))
    assert read_run(folder).conflicts == {"audio": 1.0, "visual": rates["visual"]}
    (folder / "steps.jsonl").unlink()
    with pytest.raises(BadInput, match="steps.jsonl: does not hold steps 0 to 5"):
        assert read_run(folder).conflicts


def test_probes_are_averaged_too(runs, printed, tmp_path):
    for seed, share in enumerate((0.1, 0.2, 0.6)):
        folder = runs[f"uniform{seed}"]
        write_probe(folder, "missing", {"missing/none": 0.9, "missing/audio": share})
        write_probe(folder, "noise", {"noise/audio/2": share})
    title = "Probes: multimodal accuracy without X, what X contributes to it, calibration error, %"
    rows = table(printed("--output", str(tmp_path / "x")), title)
    assert rows["uniform"]["missing/audio"] == f"30.00 ± {stdev([10, 20, 60]):.2f}"
    assert rows["joint"]["missing/audio"] == "-"
    assert "uniform,noise/audio/2,3,30.0000," in (tmp_path / "x.csv").read_text()


@pytest.mark.parametrize(
    "forge, message",
    [
        (
            lambda folder: change(folder, "data", samples={"train": 9, "test": 9}),
            "trained on data with samples .* 9.*; only runs on the same data share a table",
        ),
        (
            lambda folder: change(folder, "data", preparation={"seed": 7}),
            "with preparation .*'seed': 7",
        ),
        (lambda folder: change(folder, random_seed=0), "seed 0 of uniform is there twice"),
        (lambda folder: change(folder, epochs=3), "2 of 3 epochs done; finish it with --resume"),
        (
            lambda folder: write_probe(folder, "linear", {}, checkpoint="best"),
            "probe_linear.json: of best.pt on the test split, tables show the last epoch",
        ),
    ],
)
def test_runs_that_do_not_belong_together_share_no_table(runs, printed, forge, message):
    forge(runs["uniform1"])
    with pytest.raises(BadInput, match=message):
        printed()


def test_flags_make_a_row_that_is_compared_with_the_reference_in_its_own_setting(runs, printed):
    for name in ("uniform0", "mmpareto0"):
        change(runs[name], fusion="cosine")
    change(runs["pareto0"], fusion="sum")  # there is no uniform with it
    change(runs["mmpareto1"], gamma=2.0)
    change(runs["mmpareto2"], val_fraction=0.1)
    samples = json.loads((runs["mmpareto2"] / "options.json").read_text())["data"]["samples"]
    left = {split: samples[split] - 8 for split in ("train", "train_plain")}
    change(runs["mmpareto2"], "data", samples=samples | left | {"val": 8})
    rows = table(printed())
    assert rows["mmpareto --fusion cosine"][COLUMN] == "+10.00, one seed"
    assert rows["uniform --fusion cosine"][COLUMN] == rows["uniform"][COLUMN] == ""
    assert rows["joint"][COLUMN].startswith("-16.00 [")  # seeds 1 and 2
    assert rows["mmpareto --gamma 2.0"][COLUMN] == "+9.00, one seed"
    assert rows["mmpareto --val_fraction 0.1"]["n"] == "1 (few)"
    assert rows["pareto --fusion sum"][COLUMN] == "no common seed"
    column = "minus joint, 95% interval"
    assert table(printed("--reference", "joint"))["uniform"][column].startswith("+16.00 [")


def test_a_modality_alone_stands_in_the_table_with_the_flags_it_has(runs, printed):
    stored = json.loads((runs["uniform0"] / "options.json").read_text())
    stored["options"]["modalities"] = ["audio"]
    for flag in ("image_size", "frames_per_clip", "augment", "cache_pixels"):
        del stored["options"][flag]
    (runs["uniform0"] / "options.json").write_text(json.dumps(stored))
    rows = table(printed())
    assert rows["audio alone"]["n"] == "1 (few)" and rows["audio alone"]["visual head"] == "-"


def test_what_others_report_stands_apart_with_its_marks(runs, printed):
    for folder in runs.values():
        change(folder, dataset="cremad")
    text = printed()
    rows = table(text, "Reported by others, multimodal / audio / visual, %")
    assert rows["mmpareto"]["paper"] == "75.13 p / 65.46 p / 55.24 p"
    assert (
        rows["joint mbt pretrained"]["paper"] == "66.69 p" and rows["joint"]["MCR"][:5] == "62.6 "
    )
    assert "75.13" not in text.split("**Reported")[0]  # of another encoder


def test_the_papers_cell_stands_beside_ours(runs, printed, tmp_path):
    for folder in runs.values():
        change(folder, dataset="cremad", encoder="resnet18")
    change(runs["mmpareto1"], gamma=2.0)
    rows = table(text := printed())
    cells = {arm: row["the paper"] for arm, row in rows.items()}
    assert cells["mmpareto"] == "75.13" and cells["joint"] == "66.13"
    assert cells["pareto"] == cells["mmpareto --gamma 2.0"] == ""  # of which it has none
    assert "F1 in the paper" not in table(text, "Macro F1, %")["joint"]  # it has none at all
    for folder in runs.values():
        change(folder, fusion="mbt")
    f1 = table(text := printed(), "Macro F1, %")
    assert f1["mmpareto"]["F1 in the paper"] == "48.17"
    assert table(text)["joint"]["the paper"] == "44.96"
    printed("--columns", "the paper,F1 in the paper", "--output", str(tmp_path / "x"))
    assert r"One joint loss & 44.96 & 42.78 \\" in (tmp_path / "x.tex").read_text()  # both


def test_what_others_report_is_in_form():
    with open(tables.REPORTED) as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 248
    cells = Counter(
        (r["dataset"], r["model"], r["method"], r["source"], r["measure"]) for r in lines
    )
    assert set(cells.values()) == {1}
    known = {
        *registry.names("methods"),
        "audio alone",
        "visual alone",
        "joint --init_encoders RUNS",
    }
    for line in lines:
        assert line["mark"] in ("p", "c", "f") and line["method"] in known, line
        share = float(line["value"]) <= 1
        assert share == (line["measure"] in ("absolute_error", "relative_error")), line
        assert 0 < float(line["value"]) < 100 and float(line["std"] or 1) > 0, line


# Records


@pytest.fixture
def recorded(runs, tmp_path):
    """A folder with records of the runs, all of one commit, one of them with its steps."""
    for name, folder in runs.items():
        change(folder, "environment", commit="0123456789ab")
        write_probe(folder, "missing", {"missing/audio": 0.1 + len(name) / 100})
    change(runs["mmpareto1"], gamma=2.0)
    folder = tmp_path / "records"
    report.main([*map(str, runs.values()), "--records", str(folder), "--steps", "mmpareto0"])
    return folder


@pytest.mark.parametrize("flags", [[], ["--reference", "joint"], ["--arm", "mmpareto"]])
def test_tables_from_records_are_those_from_runs(flags, runs, recorded, tmp_path):
    for prefix, given in (("runs", runs.values()), ("records", [recorded])):
        report.main([*map(str, given), *flags, "--output", str(tmp_path / prefix)])
    for suffix in (".md", ".tex", ".csv"):
        texts = [(tmp_path / f"{prefix}{suffix}").read_text() for prefix in ("runs", "records")]
        assert texts[0] == texts[1] and "uniform" in texts[0].lower()


def test_a_rate_is_selected_from_records_as_from_runs(swept, printed, tmp_path):
    select = ["--select", "learning_rate"]
    expected = printed(*select, "--records", str(tmp_path / "records")).split("\n\n", 1)[1]
    swept.clear()
    swept["records"] = tmp_path / "records"
    tables = printed(*select).split("\nwritten")[0]
    assert tables in expected and "0.01 (edge)" in tables


def numbers_in(figure):
    """The numbers of an SVG file."""
    text = figure.read_text().split("</metadata>")[1]
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


@pytest.mark.parametrize(
    "figure, shown", [("curves", None), ("plane", None), ("overview", "mmpareto0")]
)
def test_figures_from_records_show_the_same_numbers(figure, shown, runs, recorded, tmp_path):
    flags = ["--measure", "head"] * (figure == "plane")
    folders = [folder for name, folder in runs.items() if name[:-1] in ("uniform", "mmpareto")]
    report.main([*map(str, folders), "--records", str(recorded), "--steps", "mmpareto0"])
    of_runs = [runs[shown]] if shown else folders
    of_records = [recorded / shown if shown else recorded]
    for prefix, given in (("runs", of_runs), ("records", of_records)):
        draw.main([figure, *map(str, given), *flags, "--output", str(tmp_path / prefix)])
    drawn = [numbers_in(tmp_path / f"{prefix}.svg") for prefix in ("runs", "records")]
    assert drawn[1] == pytest.approx(drawn[0], abs=0.01) and len(drawn[0]) > 100


def test_what_records_do_not_hold_is_named(recorded, runs, tmp_path):
    draw_it = ["--output", str(tmp_path / "x")]
    with pytest.raises(BadInput, match="mmpareto2: these records hold no steps of it; draw its ru"):
        draw.main(["cosine", str(recorded / "mmpareto2"), *draw_it])
    with pytest.raises(BadInput, match="pie: no such run is recorded; choose from uniform0, unif"):
        draw.main(["cosine", str(recorded / "pie"), *draw_it])
    with pytest.raises(BadInput, match="give records, or run folders, but not both"):
        report.main([str(recorded), str(runs["joint0"])])
    to = ["--records", str(tmp_path / "x")]
    with pytest.raises(BadInput, match="mmpareto9: names 0 of these runs; must be one"):
        report.main([*map(str, runs.values()), *to, "--steps", "mmpareto9"])
    with pytest.raises(BadInput, match="--records: these are records already; name the run fol"):
        report.main([str(recorded), *to])
    (recorded / "epochs.csv").unlink()
    with pytest.raises(BadInput, match="records: has no epochs.csv, which this figure needs"):
        draw.main(["curves", str(recorded), *draw_it])
    assert not list(tmp_path.glob("x*"))


def test_runs_of_two_commits_are_not_recorded_together(runs, tmp_path):
    change(runs["joint1"], "environment", commit="another")
    message = "commit .*, .*: commit .*; records are of one commit, so that a table's rows can be"
    with pytest.raises(BadInput, match=message):
        report.main([*map(str, runs.values()), "--records", str(tmp_path / "records")])
    assert not (tmp_path / "records").exists()


def edited(name, row, column, cell):
    """An edit of a cell in a CSV file; row 0 is the first line, which names the columns."""

    def edit(folder):
        rows = list(csv.reader((folder / name).read_text().splitlines()))
        rows[row][rows[0].index(column)] = cell
        write_csv(folder / name, rows)

    return edit


def lines_of(name, change_lines):
    def edit(folder):
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(change_lines(lines)))

    return edit


@pytest.mark.parametrize(
    "edit, message",
    [
        (edited("runs.csv", 0, "commit", "comit"), "runs.csv: has 0 columns commit; must be one"),
        (edited("runs.csv", 0, "best_test", "run"), "has 2 columns run; must be one"),
        (edited("runs.csv", 0, "--gamma", "--rescale"), "has column --rescale twice"),
        (edited("runs.csv", 2, "cpu", ""), "runs.csv line 3: cpu is empty"),
        (edited("runs.csv", 2, "best_test", "high"), "line 3: best_test 'high' is no number"),
        (edited("runs.csv", 2, "minutes", "nan"), "line 3: minutes 'nan' is no number"),
        (edited("runs.csv", 2, "--method", "mmparetto"), "--method mmparetto: no file methods/"),
        (edited("runs.csv", 2, "--gamma", "3"), "line 3: --gamma is no flag of this run"),
        (edited("runs.csv", 2, "--batch_size", "many"), "line 3: no run has --batch_size 'many'"),
        (edited("runs.csv", 2, "--random_seed", "0"), "seed 0 of uniform is there twice"),
        (edited("runs.csv", 2, "commit", "1234"), "0123456789ab, .*uniform1: commit 1234; records"),
        (edited("runs.csv", 2, "samples/train", "7"), "uniform1: trained on data with samples"),
        (edited("runs.csv", 2, "preparation", "ab"), "uniform1: trained on data with preparation"),
        (edited("runs.csv", 2, "accuracy/multimodal", "99"), "uniform1: epochs.csv has 2 epochs"),
        (edited("epochs.csv", 2, "test/accuracy/multimodal", "0.9"), "uniform0: epochs.csv has 2"),
        (edited("epochs.csv", 2, "epoch", "3"), "epochs.csv line 3: epoch 3 of uniform0 follows 0"),
        (edited("steps.csv", 2, "run", "pie"), "steps.csv line 3: step 1 of pie follows -1"),
        (
            edited("steps.csv", 2, "cosine/audio", "x"),
            "steps.csv line 3: cosine/audio 'x' is no nu",
        ),
        (
            lines_of("runs.csv", lambda lines: lines + lines[1:2]),
            "14: uniform0 is there twice",
        ),
        (lines_of("runs.csv", lambda lines: lines[:1]), "runs.csv: holds no run"),
        (lines_of("runs.csv", lambda lines: []), "runs.csv: has 0 columns run; must be one"),
        (lines_of("runs.csv", lambda lines: [*lines[:2], "a,b\n"]), "line 3: 2 cells, the first"),
        (lines_of("runs.csv", lambda lines: lines[:-1]), "has no joint2, which its epochs.csv or"),
        (lines_of("epochs.csv", lambda lines: lines[:-1]), "joint2: epochs.csv has 1 epochs"),
        (lines_of("epochs.csv", lambda lines: lines[:-2]), "joint2: epochs.csv has 0 epochs"),
    ],
)
def test_records_that_are_not_as_they_were_written_are_refused(edit, message, recorded):
    edit(recorded)
    with pytest.raises(BadInput, match=message):
        report.main([str(recorded)])


@pytest.mark.parametrize(
    "value", [1, 1.0, "1", "a", "", None, True, "true", "null", "audio=2", 1e-9]
)
def test_a_flag_is_read_from_records_as_it_was(value):
    assert value_of(cell_of(value)) == value and type(value_of(cell_of(value))) is type(value)


# The pages of this repository


def test_tables_and_summaries_are_those_of_the_records():
    for page in pages.pages():
        assert pages.filled(page.read_text()) == page.read_text(), page
    for path, text in pages.summaries().items():
        assert path.read_text() == text, path


def test_a_table_that_was_edited_is_not_that_of_the_records(recorded, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", recorded.parent)
    page = "before\n<!-- report.py records --arm uniform --columns n,multimodal -->\n<!-- end -->\n"
    made = pages.filled(page)
    assert "| Uniform | 3 (few) | 55.00 ± 5.00 |" in made and "commit 0123456789ab" in made
    assert pages.filled(made.replace("55.00", "56.00")) == made == pages.filled(made)
    with pytest.raises(BadInput, match="--arm unifrom: no such row; choose from uniform, "):
        pages.filled(page.replace("uniform", "unifrom"))


DRAWN = re.compile(r"^draw (.*?) \.\./pics/(\S+)$", re.MULTILINE)
LIST = (pages.ROOT / "code" / "script" / "results.sh").read_text()


@pytest.mark.parametrize("words, name", DRAWN.findall(LIST))
def test_figures_of_the_pages_are_those_of_the_records(words, name, tmp_path):
    committed = pages.ROOT / "pics" / f"{name}.svg"
    if f"Matplotlib v{matplotlib.__version__}," not in committed.read_text():
        pytest.skip("NOT COMPARED: drawn with another version of matplotlib")
    figure, *records = words.split()
    of_page = [str(pages.ROOT / "results" / record) for record in records]
    draw.main([figure, *of_page, "--output", str(tmp_path / "x")])
    drawn, there = numbers_in(tmp_path / "x.svg"), numbers_in(committed)
    assert drawn == pytest.approx(there, abs=0.01)


def test_means_and_deviations_stand_in_tables_from_records_only():
    for page in pages.pages():
        text = pages.TABLE.sub("", page.read_text())
        reported = text.find("## CREMA-D: what the paper and others report")
        assert not re.search(r"\d ± \d", text[:reported] if reported >= 0 else text), page
