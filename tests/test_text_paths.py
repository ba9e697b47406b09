"""Tests of the files that a path names: folders, links, hidden names, line ends between files."""

import hashlib
import importlib

import pytest

import train
from input_pipeline import documents, text_files, text_paths
from runtime.errors import UserError


def write(folder, contents):
    """Writes {name: text, or the target of a link in a tuple}; folders come with their files."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, tuple):
            (folder / name).symlink_to(*content)
        else:
            (folder / name).write_bytes(content.encode())


def find(path, field="", apart=()):
    return text_paths.find(str(path), "--config.data.path", field, apart)


def text_of(path):
    """Returns the text of a path; checks that its digest is that of the text."""
    files = find(path).files
    text = "".join(documents.pieces(files, field=""))
    assert documents.digest(files, field="") == hashlib.sha256(text.encode()).hexdigest()
    return text


# Name: (files of a folder, its text, what is left out).
FOLDERS = {
    "the order of names, at any depth": (
        {"b.txt": "2\r\n", "a/z.txt": "é1\n", "c/d/e.txt": "3", "a/note.md": "no"},
        "é1\n2\r\n3",
        ["a/note.md"],
    ),
    "a last line without its end": ({"a.txt": "one", "b.txt": "two"}, "one\ntwo", []),
    "an old Mac's line end": ({"a.txt": "one\r", "b.txt": "two"}, "one\rtwo", []),
    "empty files between": (
        {"a.txt": "one", "b.txt": "", "c.txt": "\ufeff", "d.txt": "two", "e.txt": ""},
        "one\ntwo",
        [],
    ),
    "byte order marks": ({"a.txt": "\ufeffone", "b.txt": "\ufefftwo"}, "one\ntwo", []),
    "hidden files": (
        {".hidden.txt": "no", "._a.txt": "\0\5\x16\7", ".txt": "no", "a.txt": "one"},
        "one",
        ["._a.txt", ".hidden.txt", ".txt"],
    ),
    "hidden folders": (
        {".ipynb_checkpoints/a-checkpoint.txt": "no", ".git/x/y.txt": "no", "d/a.txt": "one"},
        "one",
        [".git/", ".ipynb_checkpoints/"],
    ),
    "what archives of a Mac bring": (
        {"__MACOSX/._a.txt": "\0\5\x16\7", ".DS_Store": "\0", "a.txt": "one"},
        "one",
        [".DS_Store", "__MACOSX/._a.txt"],
    ),
    "an editor's lock, a link to nowhere": (
        {".#a.txt": ("user@host.1234",), "a.txt~": "old", "#a.txt#": "new", "a.txt": "one"},
        "one",
        ["#a.txt#", ".#a.txt", "a.txt~"],
    ),
    "endings in any case": ({"X.TXT": "one", "y.Txt": "two", "z.TEXT": ""}, "one\ntwo", ["z.TEXT"]),
    "a name that ends as texts do, alone": ({"txt": "no", "a.txt": "one"}, "one", ["txt"]),
    "a folder named as a text": ({"a.txt/b.txt": "one"}, "one", []),
    "a name that is not UTF-8": ({"\udcff.txt": "one", "\udcff": "no"}, "one", ["\udcff"]),
    "a line end in a name": ({"a\nb.txt": "one"}, "one", []),
    "links to files": ({"out/x": "one", "in/a.txt": ("../out/x",)}, "one", ["out/x"]),
    "linked folders": (
        {"more/b.txt": "two", "a/to": ("../more",), "a/a.txt": "one"},
        "one\ntwo\ntwo",
        [],
    ),
    "a hidden name behind a link": (
        {".store/x": "one", "a.txt": (".store/x",)},
        "one",
        [".store/"],
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_what_the_user_sees_in_it(tmp_path, name):
    contents, text, skipped = FOLDERS[name]
    write(tmp_path, contents)
    assert text_of(tmp_path) == text
    assert find(tmp_path).skipped == skipped


@pytest.mark.parametrize("name", [".hidden.txt", ".cache/a.txt", "notes.md"])
def test_a_file_that_is_named_is_read(tmp_path, name):
    write(tmp_path, {name: "one"})
    assert text_of(tmp_path / name) == "one"


def test_a_hidden_folder_that_is_named_is_read(tmp_path):
    write(tmp_path, {".texts/a.txt": "one"})
    assert text_of(tmp_path / ".texts") == "one"


REFUSED = {
    "a loop": ({"a/a.txt": "one", "a/b/up": ("..",)}, "a/b/up is a link to a folder that it is in"),
    "a link to itself": ({"a.txt": "one", "self": (".",)}, "self is a link to a folder that"),
    "two folders in each other": (
        {"a/b": ("../c",), "c/d": ("../a",), "a/a.txt": "one"},
        "a/b/d is a link to a folder that it is in",
    ),
    "a text that is gone": ({"a.txt": ("gone",)}, "a.txt can't be read (No such file"),
    "a text that links to itself": ({"a.txt": ("a.txt",)}, "a.txt can't be read (Too many levels"),
    "hidden texts alone": ({".a.txt": "one"}, "no .txt file in this folder or below it"),
    "other endings alone": ({"a.md": "one"}, "no .txt file in this folder or below it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_folder_can_not_be(tmp_path, name):
    contents, message = REFUSED[name]
    write(tmp_path, contents)
    with pytest.raises(UserError) as caught:
        text_of(tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_pieces_of_files_make_no_difference(tmp_path, monkeypatch):
    """Reads characters of 1 to 4 bytes across all borders of pieces, and of files."""
    write(tmp_path, {"a.txt": "\ufeffé€𝄞a" * 3, "b.txt": "𝄞\n", "c.txt": "€"})
    expected = text_of(tmp_path)
    assert expected == ("\ufeffé€𝄞a" * 3)[1:] + "\n𝄞\n€"
    for size in range(1, 9):
        monkeypatch.setattr(text_files, "PIECE", size)
        assert text_of(tmp_path) == expected


NAMES = {
    "a.txt": "a",
    "b.txt": "b",
    "c,d.txt": "c,d",
    "e": "e",
    "[1].txt": "[1]",
    "f g.txt": "f g",
    "in/x.txt": "x",
    "in/y.TXT": "y",
    "in/z.md": "z",
    "in/.h.txt": "h",
    "in2/x.txt": "x2",
    "r.jsonl": '{"t": "r1"}\n{"t": "r2"}',
    "in/r.JSONL": '{"t": "r3"}\n',
}
# Name: (path, text). "@" is the folder.
LISTS = {
    "two files": ("@/b.txt,@/a.txt", "b\na"),
    "a space after the comma": ("@/b.txt, @/a.txt", "b\na"),
    "a comma at the end": ("@/b.txt,", "b"),
    "a comma in a name": ("@/c,d.txt", "c,d"),
    "a comma in a name, in a list": ("@/a.txt,@/c,d.txt,@/b.txt", "a\nc,d\nb"),
    "a space in a name": ("@/f g.txt,@/e", "f g\ne"),
    "a folder and a file": ("@/in,@/a.txt", "x\ny\na"),
    "a file twice": ("@/a.txt,@/a.txt,@/in/x.txt,@/in", "a\nx\ny"),
    "a glob": ("@/?.txt", "a\nb"),
    "a glob with a set": ("@/[ab].txt", "a\nb"),
    "a glob in a list": ("@/e,@/in/[xyz].*", "e\nx\ny\nz"),
    "a glob of folders": ("@/in*", "x\ny\nx2"),
    "a glob with a comma": ("@/c,*.txt,@/e", "c,d\ne"),
    "a name with brackets": ("@/[1].txt", "[1]"),
    "home": ("~/a.txt,~/in2", "a\nx2"),
    "a glob at home": ("~/?.txt", "a\nb"),
    "records": ("@/r.jsonl", "r1\nr2"),
    "records beside texts": ("@/a.txt,@/r.jsonl,@/b.txt", "a\nr1\nr2\nb"),
    "a folder with records": ("@/in", "r3\nx\ny"),
}


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named")
    write(folder, NAMES)
    return folder


@pytest.mark.parametrize("name", LISTS)
def test_a_path_may_name_several_files(name, named, monkeypatch):
    monkeypatch.setenv("HOME", str(named))
    path, text = LISTS[name]
    field = "t" if "record" in name else ""
    files = find(path.replace("@", str(named)), field).files
    assert "".join(documents.pieces(files, field)) == text


NONE = {
    "a glob without a match": ("@/*.text", "/*.text matches no file"),
    "a glob of all depths": ("@/**/*.txt", "matches no file; a folder is read with all below it"),
    "a missing file in a list": ("@/a.txt,@/g.txt,@/b.txt", "/g.txt can't be read (No such file"),
    "commas alone": (",", "--config.data.path=,: expected a file"),
    "a folder of records without a field": (
        "@/records",
        "no .txt file in this folder or below it; .jsonl and .parquet files need --config.data.fie",
    ),
}


@pytest.mark.parametrize("name", NONE)
def test_what_names_no_file_is_said(name, named):
    path, message = NONE[name]
    write(named, {"records/a.jsonl": "{}"})
    with pytest.raises(UserError) as caught:
        text_of(path.replace("@", str(named)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_validation_is_not_trained_on(named):
    write(named, {"link": ("in/x.txt",)})
    found = find(f"{named}/in", apart=[named / "link", named / "e"])
    assert found.files == [named / "in/y.TXT"]
    assert "x.txt (validation)" in found.skipped
    with pytest.raises(UserError, match="expected a file that is not validation"):
        find(named / "a.txt", apart=[named / "a.txt"])


def smoke(**changes):
    config = importlib.import_module("experiments.bigram").get_config("smoke")
    config.tracking.wandb_mode = "disabled"
    config.update_from_flattened_dict({"train.num_steps": 1, **changes})
    return config


@pytest.mark.parametrize(
    ("contents", "changes", "line"),
    [
        (
            {"a.txt": "What\n" * 20, "b.txt": "é" * 10},
            {"data.tokenizer": "byte"},
            "text: 2 files, 110 characters",
        ),
        (
            {"a.txt": "What\n" * 20, "v.txt": "What\n" * 3},
            {"data.val_path": "@/v.txt"},
            "text: 1 file, 100 characters; validation: 1 file, 15 characters; "
            "skipped: v.txt (validation)",
        ),
        (
            {"a.jsonl": '{"t": "What"}\n' * 20, "b.txt": "What\n", "c.md": ""},
            {"data.field": "t"},
            "text: 2 files, 105 characters; skipped: c.md",
        ),
        (
            {"a.txt": "What\n" * 20, **{f"{n}\n.md": "" for n in range(6)}, ".b": ""},
            {},
            r"text: 1 file, 100 characters; skipped: .b, 0\n.md, 1\n.md, 2\n.md and 3 more",
        ),
    ],
)
def test_a_run_says_what_it_took(tmp_path, capsys, contents, changes, line):
    folder = str(tmp_path / "texts")
    write(tmp_path / "texts", contents)
    changed = {key: value.replace("@", folder) for key, value in changes.items()}
    data = {"data.path": folder, "data.name": "text", **changed}
    for time in range(2):  # The second run reads the cache.
        train.train_and_evaluate(smoke(**data), tmp_path / f"run{time}")
        assert capsys.readouterr().out.splitlines()[1:3] == [
            line,
            f"run folder: {tmp_path}/run{time}",
        ]
