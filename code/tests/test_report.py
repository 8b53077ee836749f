"""Tables from stored runs: averages, paired differences, and what is refused."""

import csv
import json
import shutil
from statistics import mean, stdev

import pytest
from scipy.stats import ttest_rel

import report
import train
from analysis.tables import reported
from utils.errors import BadInput

ACCURACY = {  # written into the runs: {method: {seed: accuracy}}
    "uniform": {0: 0.50, 1: 0.60, 2: 0.55},
    "mmpareto": {0: 0.60, 1: 0.69, 2: 0.66},
    "pareto": {0: 0.45, 1: 0.65, 2: 0.50},
    "joint": {0: 0.40, 1: 0.41, 2: 0.42},
}


@pytest.fixture(scope="module")
def trained(demo_root, tmp_path_factory):
    """A real run of each method, one epoch."""
    where = tmp_path_factory.mktemp("trained")
    argv = ["--dataset", "demo", "--data_root", str(demo_root), "--ckpt_path", str(where)]
    argv += ["--image_size", "32", "--batch_size", "27", "--num_workers", "0", "--epochs", "1"]
    for method in ACCURACY:
        train.main([*argv, "--no-tensorboard", "--method", method, "--run_name", method])
        for checkpoint in (where / method).glob("*.pt"):
            checkpoint.unlink()
    return where


@pytest.fixture
def runs(trained, tmp_path):
    """Copies with known accuracies, three seeds of each."""
    folders = []
    for method, by_seed in ACCURACY.items():
        for seed, accuracy in by_seed.items():
            folder = tmp_path / f"{method}{seed}"
            shutil.copytree(trained / method, folder)
            change(folder, random_seed=seed)
            record = json.loads((folder / "metrics.jsonl").read_text())
            record["test/accuracy/multimodal"] = accuracy
            (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
            folders.append(folder)
    return folders


def change_data(folder, **data):
    content = json.loads((folder / "options.json").read_text())
    content["data"] |= data
    (folder / "options.json").write_text(json.dumps(content))


def change(folder, **options):
    content = json.loads((folder / "options.json").read_text())
    content["options"] |= options
    (folder / "options.json").write_text(json.dumps(content))


def table(text, title):
    """{first cell: {column: cell}} of a Markdown table."""
    lines = text.split(f"**{title}**")[1].strip().split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(rows[0], row)) for row in rows[2:]}


def test_means_deviations_and_paired_differences(runs, capsys):
    report.main([str(folder) for folder in runs])
    printed = capsys.readouterr().out
    found = table(printed, "Test accuracy, %")
    column = "minus uniform, 95% interval"
    for method, by_seed in ACCURACY.items():
        values = [100 * v for v in by_seed.values()]
        assert found[method]["multimodal"] == f"{mean(values):.2f} ± {stdev(values):.2f}"
        assert found[method]["n"] == "3"
        if method == "uniform":
            assert found[method][column] == ""
            continue
        reference = [100 * v for v in ACCURACY["uniform"].values()]
        test = ttest_rel(values, reference)
        low, high = test.confidence_interval(0.95)
        told = f"{mean(values) - mean(reference):+.2f} [{low:+.2f}, {high:+.2f}]"
        assert found[method][column] == told + (
            " not distinguishable" if test.pvalue > 0.05 else ""
        )
    assert "not distinguishable" in found["pareto"][column]
    assert "not distinguishable" not in found["mmpareto"][column]
    assert found["joint"]["audio head"] == "untrained" and found["joint"]["conflict audio"] == "-"
    assert float(found["mmpareto"]["minutes"].split(" ")[0]) >= 0
    assert 0.2 < float(found["mmpareto"]["peak memory, GB"].split(" ")[0]) < 20
    assert "F1 audio head" in table(printed, "Macro F1, %")["mmpareto"]
    assert "last of 1 epochs" in printed and "torch 2.11" in printed and "commit " in printed


def test_files_agree_with_what_is_printed(runs, tmp_path, capsys):
    prefix = tmp_path / "tables" / "demo"
    report.main([*map(str, runs), "--output", str(prefix)])
    printed = capsys.readouterr().out
    assert (tmp_path / "tables" / "demo.md").read_text().strip() in printed
    rows = list(csv.DictReader((tmp_path / "tables" / "demo.csv").open()))
    values = [
        float(row["value"])
        for row in rows
        if row["method"] == "mmpareto" and row["measure"] == "multimodal"
    ]
    assert values == [60, 69, 66]
    text = (tmp_path / "tables" / "demo.tex").read_text()
    assert rf"mmpareto & 3 & {mean(values):.2f} $\pm$ {stdev(values):.2f} &" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2


def write_probe(folder, name, scores, checkpoint="last", split="test"):
    content = {"checkpoint": checkpoint, "split": split, "scores": scores}
    (folder / f"probe_{name}.json").write_text(json.dumps(content))


def test_probes_are_averaged_too(runs, tmp_path, capsys):
    for folder, share in zip(runs[:3], (0.1, 0.2, 0.6)):
        write_probe(folder, "missing", {"missing/none": 0.9, "missing/audio": share})
        write_probe(folder, "noise", {"noise/audio/2": share})
    report.main([*map(str, runs), "--output", str(tmp_path / "x")])
    found = table(
        capsys.readouterr().out,
        "Probes: multimodal accuracy without X, what X contributes to it, calibration error, %",
    )
    assert found["uniform"]["missing/audio"] == f"30.00 ± {stdev([10, 20, 60]):.2f}"
    assert found["joint"]["missing/audio"] == "-"
    assert "uniform,0,noise/audio/2,10.0000," in (tmp_path / "x.csv").read_text()


@pytest.mark.parametrize(
    "forge, message",
    [
        (lambda f: change(f[1], batch_size=9), "--batch_size 9, but .* has 27; only runs with the"),
        (lambda f: change(f[1], learning_rate=0.1), "--learning_rate 0.1, but"),
        (lambda f: change(f[1], image_size=64), "--image_size 64, but"),
        (lambda f: change(f[1], dataset="avmnist"), "--dataset avmnist, but"),
        (
            lambda f: change_data(f[1], samples={"train": 9, "test": 9}),
            "trained on data with samples .* 9.*; only runs on the same data share a table",
        ),
        (lambda f: change_data(f[1], preparation={"seed": 7}), "with preparation .*'seed': 7"),
        (lambda f: change(f[1], random_seed=0), "seed 0 of uniform is there twice"),
        (lambda f: change(f[1], epochs=2), "1 of 2 epochs done; finish it with --resume"),
        (
            lambda f: (f[1] / "metrics.jsonl").write_text(
                (f[1] / "metrics.jsonl").read_text().replace('"epoch": 0', '"epoch": 7')
            ),
            "metrics.jsonl does not hold epochs 0 to 0, each once",
        ),
        (
            lambda f: write_probe(f[1], "linear", {}, checkpoint="best"),
            "probe_linear.json: of best.pt on the test split, tables show the last epoch",
        ),
        (lambda f: write_probe(f[1], "noise", {}, split="val"), "of last.pt on the val split"),
        (lambda f: (f[1] / "options.json").unlink(), "no run folder, it has no options.json"),
    ],
)
def test_mixtures_and_forgeries_are_refused(runs, forge, message, capsys):
    forge(runs)
    with pytest.raises(BadInput, match=message):
        report.main([str(folder) for folder in runs])
    assert not capsys.readouterr().out and not (runs[0].parent / "report.md").exists()


def test_flags_of_a_method_make_a_row_of_their_own(runs, capsys):
    change(runs[3], gamma=2.0)
    report.main([str(folder) for folder in runs])
    found = table(capsys.readouterr().out, "Test accuracy, %")
    assert found["mmpareto --gamma 2.0"]["n"] == "1" and found["mmpareto"]["n"] == "2"
    column = "minus uniform, 95% interval"
    assert found["mmpareto --gamma 2.0"][column] == "+10.00, one seed"


def test_fusion_and_held_out_samples_are_named_where_they_are_not_those_of_most(runs, capsys):
    change(runs[3], fusion="cosine")
    change(runs[4], val_fraction=0.1)
    samples = json.loads((runs[4] / "options.json").read_text())["data"]["samples"]
    held_out = {"train": samples["train"] - 8, "train_plain": samples["train_plain"] - 8, "val": 8}
    change_data(runs[4], samples=samples | held_out)
    report.main([str(folder) for folder in runs[:5]])
    printed = capsys.readouterr().out
    found = table(printed, "Test accuracy, %")
    assert {"uniform", "mmpareto --fusion cosine", "mmpareto --val_fraction 0.1"} == set(found)
    assert "demo, resnet18, concat, last of 1 epochs" in printed
    for folder in runs:
        change(folder, fusion="sum")
    report.main([str(folder) for folder in runs[:3]])
    printed = capsys.readouterr().out
    assert set(table(printed, "Test accuracy, %")) == {"uniform"}  # what all have is no name
    assert "demo, resnet18, sum, last of" in printed


def test_a_row_is_compared_with_the_reference_in_its_own_setting(runs, capsys):
    for folder in (runs[0], runs[3]):  # uniform and mmpareto, seed 0
        change(folder, fusion="cosine")
    change(runs[6], fusion="sum")  # pareto; there is no uniform with it
    report.main([str(folder) for folder in runs])
    found = table(capsys.readouterr().out, "Test accuracy, %")
    column = "minus uniform, 95% interval"
    assert found["mmpareto --fusion cosine"][column] == "+10.00, one seed"
    assert found["uniform --fusion cosine"][column] == found["uniform"][column] == ""
    assert found["joint"][column].startswith("-16.00 [")  # seeds 1 and 2
    assert found["pareto --fusion sum"][column] == "no common seed"


def test_another_reference(runs, capsys):
    report.main([*map(str, runs), "--reference", "joint"])
    found = table(capsys.readouterr().out, "Test accuracy, %")
    column = "minus joint, 95% interval"
    assert found["joint"][column] == "" and found["uniform"][column].startswith("+14.00 [")
    with pytest.raises(BadInput, match="--reference ogm: no such row; choose from uniform, mmpar"):
        report.main([*map(str, runs), "--reference", "ogm"])


def test_runs_of_older_versions_are_taken_as_they_are(runs, capsys):
    change_data(runs[1], samples=None)  # they did not say how many they had
    stored = json.loads((runs[1] / "options.json").read_text())
    del stored["options"]["compile"]  # had fewer flags
    stored["options"] |= {"missing": "drop", "processes": 1}  # and others that are gone
    (runs[1] / "options.json").write_text(json.dumps(stored))
    report.main([str(folder) for folder in runs])
    assert table(capsys.readouterr().out, "Test accuracy, %")["uniform"]["n"] == "3"


def test_a_modality_alone_stands_in_the_table_with_the_flags_it_has(runs, capsys):
    stored = json.loads((runs[0] / "options.json").read_text())
    stored["options"]["modalities"] = ["audio"]
    for flag in ("image_size", "frames_per_clip", "augment", "cache_pixels"):
        del stored["options"][flag]
    (runs[0] / "options.json").write_text(json.dumps(stored))
    report.main([str(folder) for folder in runs])
    found = table(capsys.readouterr().out, "Test accuracy, %")
    assert found["audio alone"]["n"] == "1" and found["audio alone"]["visual head"] == "-"
    change(runs[0], batch_size=9)
    with pytest.raises(BadInput, match="--batch_size 9, but"):
        report.main([str(folder) for folder in runs])


def test_what_others_report_stands_apart_with_its_marks(runs, capsys):
    for folder in runs:
        change(folder, dataset="cremad")
    report.main([str(folder) for folder in runs])
    printed = capsys.readouterr().out
    apart = table(printed, "Reported by others, multimodal / audio / visual, %")
    assert apart["mmpareto"]["paper"] == "75.13 p / 65.46 p / 55.24 p"
    assert "75.13" not in printed.split("**Reported")[0]
    for cells in reported("cremad").values():
        assert all(cell.split(" ")[-1] in ("p", "c", "f") for cell in cells.values())
