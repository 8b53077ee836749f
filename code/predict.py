"""Raw files -> class probabilities, multimodal and per modality.

python predict.py runs/NAME clip.mp4 other.flv            videos with sound
python predict.py runs/NAME face.flv,voice.wav            a sample of two files: joined by a comma
python predict.py runs/NAME *.mp4 --json out.json --picture out.png

The raw files go through the data set's own preparation and its readers, with the settings that the
run stored, so nothing can differ from training. For sets prepared from raw files (cremad, demo,
kinetics_sounds, modelnet40). A file that cannot be used gets a line of its own, and the exit status
is 1.
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import torch

from dataset._loader import SampleDataset, build_readers, first_batch
from dataset._samples import Sample
from figures._style import draw_predictions
from models.multimodal import MultimodalModel
from training import resume
from training.messages import align
from training.options import choose_device
from utils import registry, run_folder
from utils.atomic import write_text
from utils.command import parser_of
from utils.errors import BadInput, run


class Predictor:
    """A run's model and preprocessing. Raises BadInput where the run does not say enough."""

    def __init__(self, folder: Path, which: str = "last", device: str = "auto"):
        content = resume.read_options(folder)
        self.options, self.data = Namespace(**content["options"]), content.get("data")
        if not self.data or self.data["preparation"] is None:
            raise BadInput(f"{folder}: does not say how its data were prepared; train it again")
        name = self.options.dataset
        preparation = registry.load("dataset/prepare", name, "--dataset")
        if "from_raw" not in vars(preparation):
            raise BadInput(f"{folder}: {name} is not prepared from raw files, one for each sample")
        self.from_raw = preparation.from_raw
        self.options.device, self.options.gpu_ids = device, None
        self.options.pretrained = False  # the weights are those of the checkpoint
        self.device = choose_device(self.options)
        self.model = MultimodalModel(
            run_folder.shapes_of(self.data),
            len(self.data["classes"]),
            self.options.encoder,
            self.options.fusion,
            vars(self.options),
        )
        self.model.load_state_dict(run_folder.load(folder / f"{which}.pt")["model"])
        self.model.to(self.device).eval()

    def __call__(self, samples: list[list[Path]]) -> list[dict[str, dict[str, float]] | str]:
        """{branch: {class: probability}} of each sample, a list of raw files, or what is wrong."""
        with tempfile.TemporaryDirectory() as folder:
            root, found = Path(folder), []
            for number, files in enumerate(samples):
                try:
                    self.from_raw(files, f"sample{number}", root, self.data["preparation"])
                    found.append(f"sample{number}")
                except BadInput as problem:
                    found.append(problem)
            usable = [name for name in found if isinstance(name, str)]
            answers = iter(self.answer(root, usable) if usable else [])
            return [str(x) if isinstance(x, BadInput) else next(answers) for x in found]

    @torch.no_grad()
    def answer(self, root: Path, ids: list[str]) -> list[dict[str, dict[str, float]]]:
        kinds = {m: self.data["readers"][m] for m in self.options.modalities}
        readers = build_readers(kinds, root, False, vars(self.options))
        data = SampleDataset([Sample(name, target=0) for name in ids], readers, seed=0)
        inputs, _ = first_batch(data, len(ids), self.device)
        logits, _ = self.model(inputs)
        shares = {branch: x.double().softmax(1).tolist() for branch, x in logits.items()}
        classes = self.data["classes"]
        return [
            {branch: dict(zip(classes, rows[i])) for branch, rows in shares.items()}
            for i in range(len(ids))
        ]


def main(argv=None) -> None:
    parser = parser_of("predict.py", __doc__)
    parser.add_argument("run", type=Path, help="run folder, such as runs/demo-mmpareto-seed0")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a sample: a file, or FILE,FILE")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw them")
    args = parser.parse_args(argv)
    samples = [
        [Path(text)] if Path(text).exists() else [Path(part) for part in text.split(",")]
        for text in args.files
    ]
    answers = Predictor(args.run, args.checkpoint, args.device)(samples)
    good = {n: a for n, a in zip(args.files, answers) if not isinstance(a, str)}
    for name, found in good.items():
        classes = next(iter(found.values()))
        rows = [["probability, %", *found]]
        rows += [[k, *(f"{100 * share[k]:.1f}" for share in found.values())] for k in classes]
        rows.append(["answer", *(max(share, key=share.get) for share in found.values())])
        print(f"{name}\n{align(rows)}\n")
    if args.json:
        write_text(args.json, json.dumps(good, indent=1))
    if args.picture and good:
        draw_predictions(good, args.picture)
    if len(good) < len(answers):
        for problem in answers:
            if isinstance(problem, str):
                print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run(main)
