"""Raw files -> class probabilities, multimodal and per modality.

python predict.py runs/NAME clip.mp4 other.flv            videos with sound
python predict.py runs/NAME face.flv,voice.wav            a sample of two files: joined by a comma
python predict.py runs/NAME *.mp4 --json out.json --picture out.png

The raw files go through the data set's own preparation and its readers, with the settings that the
run stored, so nothing can differ from training. For sets prepared from raw files (cremad, demo,
kinetics_sounds, modelnet40). A file that cannot be used gets a line of its own, and the exit status
is 1.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import torch

from analysis import trained
from dataset._loader import SampleDataset, build_readers, first_batch
from dataset._samples import Sample
from figures._style import draw_predictions
from models.multimodal import MultimodalModel
from training import resume
from training.messages import align
from utils import registry, run_folder
from utils.atomic import write_text
from utils.command import Parser
from utils.errors import BadInput, run_command
from utils.seed import seeded

Shares = dict[str, dict[str, float]]  # {branch: {class: probability}} of a sample


class Predictor:
    """A run's model and preprocessing. Raises BadInput where the run does not say enough."""

    def __init__(self, folder: Path, checkpoint: str = "last", device: str = "auto"):
        stored = resume.read_options(folder)
        self.options, self.data = trained.options_for(stored, device), stored.get("data")
        if not self.data or self.data["preparation"] is None:
            raise BadInput(f"{folder}: does not say how its data were prepared; train it again")
        name = self.options.dataset
        preparation = registry.load("dataset/prepare", name, "--dataset")
        if "from_raw" not in vars(preparation):
            raise BadInput(f"{folder}: {name} is not prepared from raw files, one for each sample")
        self.from_raw = preparation.from_raw
        flags = vars(self.options)
        shapes, classes = run_folder.shapes_of(self.data), len(self.data["classes"])
        model = MultimodalModel(shapes, classes, flags["encoder"], flags["fusion"], flags)
        model.load_state_dict(run_folder.load(folder / f"{checkpoint}.pt")["model"])
        self.model = model.to(self.options.device).eval()

    def __call__(self, samples: dict[str, list[Path]]) -> tuple[dict[str, Shares], list[str]]:
        """({name: probabilities}, what is wrong with the others) of samples {name: raw files}."""
        ids, problems = {}, []
        with tempfile.TemporaryDirectory() as folder:
            for number, (name, files) in enumerate(samples.items()):
                try:
                    self.from_raw(files, f"sample{number}", Path(folder), self.data["preparation"])
                    ids[name] = f"sample{number}"
                except BadInput as problem:
                    problems.append(str(problem))
            answers = self.predict(Path(folder), list(ids.values())) if ids else []
        finite = {}
        for name, shares in zip(ids, answers):
            if any(math.isnan(p) for of_branch in shares.values() for p in of_branch.values()):
                problems.append(f"{name}: the model's logits are not finite, so it has no answer")
            else:
                finite[name] = shares
        return finite, problems

    @torch.no_grad()
    def predict(self, root: Path, ids: list[str]) -> list[Shares]:
        """Probabilities of the samples with these ids in the prepared tree `root`."""
        kinds = {m: self.data["readers"][m] for m in self.options.modalities}
        readers = build_readers(kinds, root, False, vars(self.options))
        data = SampleDataset([Sample(name, target=0) for name in ids], readers, seed=0)
        with seeded(self.options.random_seed):  # for encoders that draw here, too
            inputs, _ = first_batch(data, len(ids), self.options.device)
            logits, _ = self.model(inputs)
        shares = {branch: x.double().softmax(1).tolist() for branch, x in logits.items()}
        answers = [{} for _ in ids]
        for branch, rows in shares.items():
            for answer, row in zip(answers, rows):
                answer[branch] = dict(zip(self.data["classes"], row))
        return answers


def main(argv=None) -> None:
    parser = Parser("predict.py", __doc__)
    parser.add_argument("run", type=Path, help="run folder, such as runs/demo-mmpareto-seed0")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a sample: a file, or FILE,FILE")
    trained.add_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw them")
    options = parser.parse_args(argv)
    samples = {
        text: [Path(text)] if Path(text).exists() else [Path(part) for part in text.split(",")]
        for text in options.files
    }
    predictor = Predictor(options.run, options.checkpoint, options.device)
    answers, problems = predictor(samples)
    for name, shares in answers.items():
        rows = [["probability, %", *shares]]
        for label in predictor.data["classes"]:
            rows.append([label, *(f"{100 * share[label]:.1f}" for share in shares.values())])
        rows.append(["answer", *(max(share, key=share.get) for share in shares.values())])
        print(f"{name}\n{align(rows)}\n")
    if options.json:
        write_text(options.json, json.dumps(answers, indent=1))
    if options.picture and answers:
        draw_predictions(answers, options.picture)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
