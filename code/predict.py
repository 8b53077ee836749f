"""Raw files -> class probabilities, multimodal and per modality.

python predict.py runs/NAME clip.mp4 other.flv            videos with sound
python predict.py runs/NAME face.flv,voice.wav            a sample of two files: joined by a comma
python predict.py runs/NAME *.mp4 --json out.json --picture out.png
python predict.py runs/NAME a.wav,a.npy b.wav,b.npy       own data: a file for each modality, in
                                                          the order of the run's
python predict.py runs/NAME depth=a.npy,sound=a.wav       or named; for frames a folder of pictures

The raw files go through the data set's own preparation and its readers, with the settings that the
run stored, so nothing can differ from training. For sets prepared from raw files (cremad, demo,
grid, kinetics_sounds, modelnet40, ucf101, utd_mhad), and for own data (--dataset folder), which are
not prepared. A file that cannot be used gets a line of its own, and the exit status is 1.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import exists
from pathlib import Path

import torch

from analysis import trained
from dataset._limits import naming
from dataset._loader import SampleDataset, build_readers, first_batch
from dataset._samples import Sample
from dataset.prepare._preparation import convert, prepare_sample
from figures._style import draw_predictions
from models.metrics import answers
from models.multimodal import MultimodalModel
from training import resume
from training.messages import align
from utils import registry, run_folder
from utils.atomic import write_text
from utils.command import Parser
from utils.errors import BadInput, run_command
from utils.seed import seeded

Shares = dict[str, dict[str, float]]  # {branch: {class: probability}} of a sample
ID = "sample"  # of the sample in its prepared tree


class Predictor:
    """A run's model and preprocessing. Raises BadInput where the run does not say enough."""

    def __init__(self, folder: Path, checkpoint: str = "last", device: str = "auto"):
        stored = resume.read_options(folder)
        self.options, self.data = trained.options_for(stored, device), stored.get("data")
        name, is_own = self.options.dataset, self.options.dataset == "folder"
        if not self.data or (self.data["preparation"] is None and not is_own):
            raise BadInput(f"{folder}: does not say how its data were prepared; train it again")
        self.kinds = {m: self.data["readers"][m] for m in self.options.modalities}
        if is_own:
            self.from_raw, self.settings = place, self.kinds
        else:
            preparation = registry.load("dataset/prepare", name, "--dataset")
            if "from_raw" not in vars(preparation):
                raise BadInput(
                    f"{folder}: {name} is not prepared from raw files, one for each sample"
                )
            self.from_raw, self.settings = preparation.from_raw, self.data["preparation"]
        flags = vars(self.options)
        shapes, classes = run_folder.shapes_of(self.data), len(self.data["classes"])
        model = MultimodalModel(shapes, classes, flags["encoder"], flags["fusion"], flags)
        path = folder / f"{checkpoint}.pt"
        run_folder.fill(model, run_folder.load(path)["model"], path)
        self.model = model.to(self.options.device).eval()

    def __call__(self, samples: dict[str, list[Path]]) -> tuple[dict[str, Shares], list[str]]:
        """({name: probabilities}, what is wrong with the others) of samples {name: raw files}."""
        answered, problems = {}, []
        with tempfile.TemporaryDirectory() as folder:
            trees = {name: Path(folder) / str(number) for number, name in enumerate(samples)}
            jobs = {
                name: (files, self.from_raw, ID, trees[name], self.settings)
                for name, files in samples.items()
            }
            unusable = convert(prepare_sample, jobs, 1, "samples")  # a decoder may crash
            for name, files in samples.items():
                try:
                    if name in unusable:
                        raise unusable[name]
                    with naming(*files), naming_linked(trees[name]):
                        answered[name] = self.predict(trees[name])
                except BadInput as problem:
                    problems.append(str(problem))
        return answered, problems

    @torch.no_grad()
    def predict(self, root: Path) -> Shares:
        """Probabilities of the only sample of the prepared tree `root`."""
        readers = build_readers(self.kinds, root, False, vars(self.options))
        for modality, shape in self.data.get("shapes", {}).items():  # older runs have none
            readers[modality].shape = tuple(shape)  # a grey picture alone does not tell it
        data = SampleDataset([Sample(ID, target=0)], readers, seed=0)
        with seeded(self.options.random_seed):  # for encoders that draw here, too
            inputs, _ = first_batch(data, 1, self.options.device)
            logits, _ = self.model(inputs)
        if any(answers(x)[0] < 0 for x in logits.values()):
            raise BadInput("the model's logits are not finite, so it has no answer")
        shares = {branch: x[0].double().softmax(0).tolist() for branch, x in logits.items()}
        return {branch: dict(zip(self.data["classes"], row)) for branch, row in shares.items()}


def place(files: list[Path], sample: str, root: Path, kinds: dict[str, str]) -> None:
    """Makes links to a file for each modality the tree of a sample. kinds: {modality: its reader}.

    Raises BadInput where files and modalities do not fit each other.
    """
    named = [str(file).partition("=") for file in files]
    if all(modality in kinds for modality, _, _ in named):
        files = [Path(file) for _, _, file in sorted(named, key=lambda x: list(kinds).index(x[0]))]
        modalities = sorted(modality for modality, _, _ in named)
    else:
        modalities = sorted(kinds)
    if modalities != sorted(kinds) or len(files) != len(kinds):
        form = ",".join(f"{modality}=FILE" for modality in kinds)
        raise BadInput(
            f"{','.join(map(str, files))}: needs a file for each of {', '.join(kinds)}, in this "
            f"order, or as {form}"
        )
    for (modality, kind), file in zip(kinds.items(), files):
        reader = registry.load_class("dataset/modalities", kind, "--modalities")
        if not file.exists():
            raise BadInput(f"{file}: missing")
        suffix = "" if file.is_dir() else file.suffix.lower()
        if suffix not in reader.suffixes:
            wanted = " ".join(filter(None, reader.suffixes)) or "a folder of pictures"
            raise BadInput(f"{file}: {modality} is read from {wanted}")
        link = root / modality / f"{sample}{suffix}"
        link.parent.mkdir(parents=True)
        link.symlink_to(file.absolute())


@contextmanager
def naming_linked(root: Path) -> Iterator[None]:
    """What BadInput says of links below `root` is said of the files that they lead to."""
    try:
        yield
    except BadInput as problem:
        line = str(problem)
        for link in root.glob("*/*"):
            if link.is_symlink():
                line = line.replace(str(link), str(link.readlink()))
        raise BadInput(line) from None


def write_json(answered: dict[str, Shares], path: Path) -> None:
    write_text(path, json.dumps(answered, indent=1))


def samples_of(texts: list[str]) -> dict[str, list[Path]]:
    """{name: files} of the samples of a command line; those of one that stands there again have
    its number behind their name."""
    samples: dict[str, list[Path]] = {}
    for text in texts:
        files = [Path(text)] if exists(text) else [Path(part) for part in text.split(",")]
        name = shown = text.encode("utf-8", "backslashreplace").decode()
        number = 1
        while name in samples:
            number += 1
            name = f"{shown} ({number})"
        samples[name] = files
    return samples


def main(argv=None) -> None:
    parser = Parser("predict.py", __doc__)
    parser.add_argument("run", type=Path, help="run folder, such as runs/demo-mmpareto-seed0")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a sample: a file, or FILE,FILE")
    trained.add_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw them")
    options = parser.parse_args(argv)
    predictor = Predictor(options.run, options.checkpoint, options.device)
    answered, problems = predictor(samples_of(options.files))
    for name, shares in answered.items():
        rows = [["probability, %", *shares]]
        for label in predictor.data["classes"]:
            rows.append([label, *(f"{100 * share[label]:.1f}" for share in shares.values())])
        rows.append(["answer", *(max(share, key=share.get) for share in shares.values())])
        print(f"{name}\n{align(rows)}\n")
    for file, write in ((options.json, write_json), (options.picture, draw_predictions)):
        try:
            if file and (answered or write is write_json):
                with naming(file, what="cannot be written"):
                    write(answered, file)
        except BadInput as problem:
            problems.append(str(problem))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
