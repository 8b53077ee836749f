"""UTD-MHAD's inertial and skeleton files -> dataset/utd_mhad.py.

    python -m dataset.prepare.utd_mhad --source DIR [--steps 32]

DIR holds, at any depth, the files a1_s1_t1_inertial.mat and a1_s1_t1_skeleton.mat of action 1,
subject 1, trial 1 and so on, or archives of them (Inertial.zip, Skeleton.zip), which are unpacked
beside the output. 861 actions are expected; there are no public checksums to compare them with.

Every sequence is brought to `--steps` times by linear interpolation. Joints are taken relative to
the hip centre of the same time. From all numbers the mean of their channel is subtracted; inertial
channels are divided by their deviation, joints, so that those at rest stay small, by that of all.
Means and deviations are of the training subjects alone, so a set whose training files changed is
prepared anew. Left out are actions that lack one of the two files, files of another shape, with
values that are not finite, of less than 0.5 s, or in which nothing moves.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import scipy.io
import torch

from dataset._files import one_for_each, tell_left_out
from dataset._limits import check_cost, naming
from dataset._samples import natural
from dataset._values import check_values
from dataset.prepare import _preparation as preparation
from dataset.prepare._archive import raw_with_folders
from utils.atomic import replacing
from utils.command import count, listed, number
from utils.errors import BadInput, run_command

ACTIONS = (
    "swipe left|swipe right|wave|clap|throw|cross arms|basketball shoot|draw x|"
    "draw circle clockwise|draw circle counter clockwise|draw triangle|bowling|boxing|"
    "baseball swing|tennis swing|arm curl|tennis serve|push|knock|catch|pick up and throw|jog|walk|"
    "sit to stand|stand to sit|lunge|squat"
).split("|")
LACKING = {"a8_s1_t4", "a23_s6_t4", "a27_s8_t4"}  # of 27 actions x 8 subjects x 4 trials
KNOWN = {
    f"a{action}_s{subject}_t{trial}"
    for action in range(1, len(ACTIONS) + 1)
    for subject in range(1, 9)
    for trial in range(1, 5)
} - LACKING
NAME = re.compile(r"(a\d+_s\d+_t\d+)_(inertial|skeleton)\.mat", re.IGNORECASE)
TIMES = {"inertial": 50, "skeleton": 30}  # per second
KEYS = {"inertial": "d_iner", "skeleton": "d_skel"}
SHAPES = {"inertial": "(T, 6)", "skeleton": "(20, 3, T)"}
HIP = 3  # the joint at the centre of the hips, of 20
SHORTEST_SECONDS = 0.5  # the shortest of the set lasts 1.4
HOW_TO_GET = (
    "--source: name the folder of UTD-MHAD's files. This project does not download them: "
    "Inertial.zip and Skeleton.zip are at https://personal.utdallas.edu/~kehtar/UTD-MHAD.html, for "
    "research; cite Chen, Jafari and Kehtarnavaz 2015"
)


def subject_of(sample: str) -> int:
    """Of a1_s3_t2: 3."""
    return int(sample.split("_")[1][1:])


def action_of(sample: str) -> str:
    """The name of the action: of a1_s3_t2 `swipe left`."""
    return ACTIONS[int(sample.split("_")[0][1:]) - 1]


def raw_sequences(source: Path, downloads: Path) -> dict[str, list[Path]]:
    """{sample: its files, at most one of each sensor}. Raises BadInput where there is none."""
    of_sensor: dict[str, dict[Path, str]] = {"inertial": {}, "skeleton": {}}
    strange = {}
    for path, _ in raw_with_folders(source, downloads):
        if match := NAME.fullmatch(path.name):
            sample, sensor = match[1].lower(), match[2].lower()
            if sample in KNOWN:
                of_sensor[sensor][path] = sample
            else:
                strange[path] = "of none of the set's 861 actions"
    tell_left_out(source, strange)
    files: dict[str, list[Path]] = {}
    for id_of in of_sensor.values():
        for sample, path in one_for_each(id_of, id_of.get).items():
            files.setdefault(sample, []).append(path)
    if not files:
        raise BadInput(
            f"--source {source}: holds no file of UTD-MHAD, such as a1_s1_t1_inertial.mat, in it "
            "or below it"
        )
    if missing := sorted(KNOWN - files.keys(), key=natural):
        print(
            f"NOTE: {len(missing)} of {len(KNOWN)} actions are not there, such as {missing[0]}",
            flush=True,
        )
    return {sample: files[sample] for sample in sorted(files, key=natural)}


def read_sequence(path: Path) -> tuple[str, np.ndarray]:
    """(sensor, (T, 6) or, relative to the hip centre, (T, 60)) of a file; the name of what it holds
    tells the sensor. Raises BadInput for a file that is damaged, or no sequence of the set."""
    with naming(path):
        check_cost(bytes=path.stat().st_size)
        shapes = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
        held = [sensor for sensor, key in KEYS.items() if key in shapes]
        if len(held) != 1:
            raise BadInput(
                f"{path}: expected d_iner or d_skel, got {', '.join(shapes) or 'nothing'}"
            )
        (sensor,) = held
        shape = shapes[KEYS[sensor]]
        check_cost(numbers=np.prod(shape, dtype=float))
        values = scipy.io.loadmat(path, variable_names=[KEYS[sensor]])[KEYS[sensor]]
        is_inertial = sensor == "inertial"
        fits = len(shape) == 2 and shape[1] == 6 if is_inertial else shape[:2] == (20, 3)
        if values.dtype.kind not in "iuf" or not fits or values.ndim != (2 if is_inertial else 3):
            raise BadInput(f"{path}: {values.dtype} {shape}, expected numbers {SHAPES[sensor]}")
        if not is_inertial:
            values = np.moveaxis(values, 2, 0)
        values = values.astype(float)
        check_values(torch.from_numpy(values), lambda: path)
        if (seconds := len(values) / TIMES[sensor]) < SHORTEST_SECONDS:
            raise BadInput(f"{path}: too short, {seconds:.2f} s; at least {SHORTEST_SECONDS} s")
        if not is_inertial:
            values = values - values[:, HIP, None]
        values = values.reshape(len(values), -1)
        if not np.ptp(values, axis=0).any():
            raise BadInput(f"{path}: nothing moves, all times are alike")
        return sensor, values


def resampled(values: np.ndarray, steps: int) -> np.ndarray:
    """(T, D) -> (steps, D), from the first time to the last, by linear interpolation."""
    times = np.linspace(0, len(values) - 1, steps)
    return np.stack([np.interp(times, range(len(values)), x) for x in values.T], axis=1)


def sequences_of(files: list[Path], steps: int) -> dict[str, np.ndarray]:
    """{sensor: (steps, D)} of an action. Raises BadInput unless there is a file of each sensor."""
    sequences = dict(read_sequence(path) for path in files)
    if len(files) != len(KEYS) or len(sequences) != len(KEYS):
        raise BadInput(
            f"{', '.join(map(str, files))}: an inertial and a skeleton file of the same action are "
            "needed"
        )
    return {sensor: resampled(sequences[sensor], steps) for sensor in KEYS}


def statistics(files: list[list[Path]], steps: int) -> dict[str, dict[str, list[float]]]:
    """{sensor: {"mean", "deviation": of each channel}} of the training actions that can be used."""
    of_sensor: dict[str, list[np.ndarray]] = {sensor: [] for sensor in KEYS}
    problems = []
    for of_action in files:
        try:
            for sensor, values in sequences_of(of_action, steps).items():
                of_sensor[sensor].append(values)
        except BadInput as problem:  # named when it is prepared
            problems.append(problem)
    if files and len(problems) == len(files):
        raise BadInput(f"no training action is usable; the first: {problems[0]}")
    found = {}
    for sensor, sequences in of_sensor.items():
        values = np.concatenate(sequences)
        mean, deviation = preparation.mean_and_deviation(values)
        if sensor == "skeleton":
            deviation[:] = (values - mean).std()
        found[sensor] = {"mean": mean.tolist(), "deviation": deviation.tolist()}
    return found


def find_raw(options: argparse.Namespace) -> preparation.RawSet:
    tested = set(options.test_subjects)
    files = raw_sequences(options.source, options.output.parent / ".download")
    split = {
        "train": {s: action_of(s) for s in files if subject_of(s) not in tested},
        "test": {s: action_of(s) for s in files if subject_of(s) in tested},
    }
    for part, labels in split.items():
        if not labels:
            there = ", ".join(map(str, sorted({subject_of(sample) for sample in files})))
            raise BadInput(
                f"--test_subjects {','.join(map(str, options.test_subjects))}: leaves no subject "
                f"for {part}.csv; the source has {there}"
            )
    of_test = sum(subject_of(sample) in tested for sample in KNOWN)
    expected = {"train": len(KNOWN) - of_test, "test": of_test}
    classes = sorted({label for labels in split.values() for label in labels.values()})
    flags = {"steps": options.steps, "test_subjects": sorted(tested)}
    settings = flags | statistics([files[sample] for sample in split["train"]], options.steps)
    begun = options.output / "settings.json"
    if begun.is_file() and settings != (before := preparation.read_json(begun)) == before | flags:
        raise BadInput(
            f"--output {options.output}: was begun with other training files, so with other means; "
            "delete it, or name another"
        )
    return preparation.RawSet(classes, split, files, settings, expected)


def from_raw(files: list[Path], name: str, output: Path, settings: dict) -> None:
    """Both sequences of an action, standardised, float32."""
    targets = {sensor: output / sensor / f"{name}.npy" for sensor in KEYS}
    if all(target.is_file() for target in targets.values()):
        return
    for sensor, values in sequences_of(files, settings["steps"]).items():
        values = (values - settings[sensor]["mean"]) / settings[sensor]["deviation"]
        with replacing(targets[sensor]) as temporary, open(temporary, "wb") as file:
            np.save(file, values.astype(np.float32))


def subject(text: str) -> int:
    """The type of a subject's number."""
    if (value := count(text)) > 8:
        raise argparse.ArgumentTypeError(f"{value}: subjects are 1 to 8")
    return value


def main(argv: list[str] | None = None) -> None:
    parser = preparation.command_line("utd_mhad", __doc__, "folder of the files or archives")
    add = parser.add_argument
    steps = number(int, "2 to 1000", lambda n: 2 <= n <= 1000)
    add("--steps", type=steps, default=32, metavar="N", help="times of every sequence; default 32")
    add(
        "--test_subjects",
        type=listed(subject),
        default=[2, 4, 6, 8],
        metavar="2,4",
        help="of subjects 1 to 8, unknown in training; default 2,4,6,8, the established split",
    )
    preparation.run(parser, find_raw, from_raw, HOW_TO_GET, argv)


if __name__ == "__main__":
    run_command(main)
