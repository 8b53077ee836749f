"""What others report, test accuracy in %: {data set: {method: {source: cell}}}.

Cells are multimodal / audio / visual. Marks: c as quoted by a third party, f read off the paper's
Figure 1, r from memory, not proof. Never mixed with what is measured here.
"""

PAPER = "paper"

PUBLISHED = {
    "cremad": {
        "audio alone": {PAPER: "61.69 r"},
        "visual alone": {PAPER: "56.05 r"},
        "joint": {
            PAPER: "66.13 r / 59.27 r / 36.56 r",
            "InfoReg": "66.61 c",
            "MCR": "62.6 ± 5.8 c",
            "PDMP": "58.83 c",
            "ASGML": "61.59 ± 0.80 c",
        },
        "uniform": {
            PAPER: "71.10 c / 63.44 r / 51.34 r",
            "InfoReg": "70.81 c",
            "MCR": "69.2 ± 1.8 c",
        },
        "mmpareto": {
            PAPER: "75.13 r / 65.46 r / 55.24 c",
            "InfoReg": "73.08 c",
            "MCR": "69.0 ± 2.5 c",
            "TCMax": "74.4 c",
            "PDMP": "70.19 c",
            "ASGML": "65.51 ± 0.87 c",
        },
    },
    "kinetics_sounds": {
        "audio alone": {PAPER: "53.63 r"},
        "visual alone": {PAPER: "49.20 r"},
        "joint": {PAPER: "64.61 r / 52.03 r / 35.47 r", "InfoReg": "65.67 c"},
        "uniform": {PAPER: "68.31 r / 53.20 r / 40.55 r", "InfoReg": "68.71 c"},
        "pareto": {PAPER: "66.7 f / - / 35.1 f"},
        "mmpareto": {PAPER: "70.13 c / 56.40 c / 53.05 r", "InfoReg": "71.11 c"},
    },
}
