"""Tiny Shakespeare as a TFDS data set: one file, split where nanoGPT and the lecture split it.

TFDS's own builder of this name needs TensorFlow to read the file, and splits 90/5/5.
"""

from typing import ClassVar

import tensorflow_datasets as tfds

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builder of splits `train`, the first 90 % of the characters, and `val`; one example each."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "90/10 split."}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="All of Shakespeare's lines that fit in 1 MB, for language modelling.",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            homepage="https://github.com/karpathy/char-rnn/tree/master/data/tinyshakespeare",
        )

    def _split_generators(self, dl_manager):
        # TFDS compares the file with checksums.tsv, downloaded or not.
        text = dl_manager.download(URL).read_text(encoding="utf-8")
        cut = len(text) * 9 // 10
        return {
            "train": self._generate_examples(text[:cut]),
            "val": self._generate_examples(text[cut:]),
        }

    def _generate_examples(self, text):
        yield 0, {"text": text}
