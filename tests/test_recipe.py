import dataclasses
import typing
from pathlib import Path

import pytest
import yaml

from tfgpt.recipe import DataConfig, Recipe, RecipeError
from tfgpt.recipe_adapt import PretrainConfig
from tfgpt.recipe_data import SourceConfig
from tfgpt.recipe_file import load_recipe, resolved_yaml

PIPELINES = sorted((Path(__file__).parent.parent / "pipelines").glob("*.yaml"))
MINIMAL = "data: {path: python-docs}\n"


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a recipe and gives its path."""

    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_every_recipe_that_we_ship_is_valid_and_names_itself(path):
    recipe, folder = load_recipe(path)

    assert recipe.name == path.stem
    assert folder == Path("runs") / path.stem


def test_every_recipe_is_in_the_index():
    index = (PIPELINES[0].parent / "README.md").read_text()

    assert PIPELINES and all(f"({path.name})" in index for path in PIPELINES)


def test_overrides_win_over_the_file_and_the_file_over_defaults(written):
    path = written("name: a\ndata: {path: python-docs, length: 64}\ntrain: {steps: 5, schedule: {peak: 5e-5, floor: 0}}\n")

    recipe, folder = load_recipe(path, ["--train.steps", "7", "--output", "/tmp/elsewhere", "--train.sample_prompts", '["x", "y"]'])

    assert (recipe.train.steps, recipe.data.length, recipe.train.schedule.peak, recipe.seed) == (7, 64, 5e-5, 1)
    assert recipe.train.sample_prompts == ("x", "y")
    assert folder == Path("/tmp/elsewhere")


def test_the_resolved_recipe_is_a_recipe_with_the_same_meaning(written):
    recipe, _ = load_recipe(written("name: a\nseed: 9\ndata: {path: python-docs}\nevaluate: {prompts: [one, 'two: \"é\"']}\n"))

    text = resolved_yaml(recipe)

    assert load_recipe(written(text))[0] == recipe
    assert "# tensorflow 2." in text
    assert yaml.safe_load(text)["train"]["schedule"] == dataclasses.asdict(recipe.train.schedule)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("foo: 3\n" + MINIMAL, [], r"^foo: no such key \(3\); remove it\. Allowed here: data, name"),
        ("trian: {}\n" + MINIMAL, [], r"^trian: no such key \({}\); did you mean train\?"),
        ("data: {path: x, lenth: 64}\n", [], r"^data\.lenth: no such key \(64\); did you mean data\.length\?"),
        (MINIMAL + "train: {schedule: {peek: 1}}\n", [], r"^train\.schedule\.peek: no such key \(1\); did you mean train\.schedule\.peak\?"),
        ("data: {path: x, length: abc}\n", [], r"^data\.length: abc is not a whole number"),
        ("data: {path: x, length: 2.5}\n", [], r"^data\.length: 2\.5 is not a whole number"),
        ("data: {path: x, split: middle}\n", [], r"^data\.split: middle is not one of auto, hash, tail"),
        ("data: python-docs\n", [], r"^data: 'python-docs' is not a section; write its keys below it, such as data\.path"),
        ("name: x\n", [], r"^data\.path: empty; give a file, a folder"),
        (MINIMAL + "train: {jit_compile: 3}\n", [], r"^train\.jit_compile: 3 is not true or false"),
        (MINIMAL + "evaluate: {prompts: 3}\n", [], r"^evaluate\.prompts: 3 is not a list of texts"),
        (MINIMAL, ["--train.steps", "abc"], r"^train\.steps: abc is not a whole number"),
        (MINIMAL, ["--train.stesp", "3"], r"^--train\.stesp: no such key \(3\); did you mean --train\.steps\?"),
        (MINIMAL, ["--train.steps", "0"], r"^train\.steps: 0 is too small; set it to 1 or more"),
        (MINIMAL, ["--train.steps", "9", "--train.profile", "[10, 12]"], r"^train\.profile: \[10, 12\] begins behind the last of 9 train\.steps"),
        ("data: {path: x, length: 2048}\nmodel: {context: 1024}\n", [],
         r"^data\.length: 2048 tokens is longer than the model's context of 1024; set it to 1024 or less, or raise model\.context"),
        (MINIMAL + "model: {width: 100, heads: 3}\n", [], r"^model\.width: 100 is not a multiple of model\.heads \(3\)"),
        (MINIMAL + "export: {batch_sizes: [4, 2]}\n", [], r"^export\.batch_sizes: \[4, 2\] is no list of rising whole numbers from 1 on, such as"),
        (MINIMAL + "export: {batch_sizes: []}\n", [], r"^export\.batch_sizes: empty; give at least the most rows"),
        (MINIMAL + "export: {batch_sizes: [a]}\n", [], r"^export\.batch_sizes: .*is not a list of whole numbers"),
        (MINIMAL + "export: {length_buckets: [0]}\n", [], r"^export\.length_buckets: \[0\] is no list of rising whole numbers"),
        (MINIMAL + "export: {jit: true, weights: int8}\n", [], r"^export\.jit: true with export\.weights int8, for which XLA has no product"),
        (MINIMAL + "export: {jit: true, beams: 4}\n", [], r"^export\.beams: 4 with export\.jit: true; a search is not compiled"),
        (MINIMAL + "export: {beams: -1}\n", [], r"^export\.beams: -1"),
        (MINIMAL + "export: {draft_tokens: 0}\n", [], r"^export\.draft_tokens: 0"),
        (MINIMAL + "export: {device: tpu}\n", [], r"^export\.device: tpu is not one of any, gpu"),
        (MINIMAL + "model: {dropout: 1}\n", [], r"^model\.dropout: 1\.0 is not in \[0, 1\)"),
        (MINIMAL + "tokenizer: {vocab: 200}\n", [], r"^tokenizer\.vocab: 200 is too small; set it to 257 or more"),
        ("data: {path: x, validation: 1.5}\n", [], r"^data\.validation: 1\.5 with data\.test 0\.0 leaves nothing to train on"),
        (MINIMAL + "train: {schedule: {peak: 1e-4, floor: 1e-3}}\n", [], r"^train\.schedule\.floor: 0\.001 is not between 0 and train\.schedule\.peak"),
        (MINIMAL + "train: {schedule: {peak: .inf}}\n", [], r"^train\.schedule\.peak: inf is not a number above 0"),
        (MINIMAL + "adapt: {lora: {rank: 2, alpha: .inf}}\n", [], r"^adapt\.lora\.alpha: inf is no number above 0"),
        (MINIMAL + "adapt: {pretrain: {steps: 2, peak: .inf}}\n", [], r"^adapt\.pretrain\.peak: inf is no number above 0"),
        (MINIMAL + "train: {weight_decay: .inf}\n", [], r"^train\.weight_decay: inf is no number to work with"),
        (MINIMAL + "seed: 1\nseed: 2\n", [], r"recipe\.yaml:3: not YAML \(the key seed stands twice\)"),
        ("data: {path: x, sources: [{path: y}]}\n", [], r"^data\.path: x and 1 data\.sources; give one of the two"),
        ("data: {sources: [{pat: y}]}\n", [], r"^data\.sources\[0\]\.pat: no such key \('y'\); did you mean data\.sources\[0\]\.path\?"),
        ("data: {sources: [y]}\n", [], r"^data\.sources\[0\]: 'y' is not a section; write its keys below it, such as path"),
        ("data: {sources: [{path: x, weight: 1}, {path: y}]}\n", [], r"^data\.sources: 1 of 2 have a weight; give one to each, or to none"),
        ("data: {sources: [{path: x, weight: -1}]}\n", [], r"^data\.sources\[0\]\.weight: -1\.0 is not above 0"),
        ("data: {path: x, encoding: utf-99}\n", [], r"^data\.encoding: utf-99 is no encoding that Python knows"),
        ("data: {path: x, stride: 300}\n", [], r"^data\.stride: 300 is not between 0 and data\.length \(256\)"),
        ("data: {path: x, examples: pairs, split: tail}\n", [], r"^data\.split: tail cuts running text, and data\.examples is pairs"),
        ("data: {path: x, clean: {min_chars: 9, max_chars: 3}}\n", [], r"^data\.clean\.min_chars: 9 is more than data\.clean\.max_chars \(3\)"),
        ("data: {path: x, kind: xml}\n", [], r"^data\.kind: xml is not one of auto, text, jsonl"),
        (MINIMAL + "tokenizer: {special_tokens: [a, a]}\n", [], r"^tokenizer\.special_tokens: \['a', 'a'\] has an empty text or one twice"),
        ("name: a/b\n" + MINIMAL, [], r"^name: 'a/b' cannot name a folder"),
        ("name: x\ndata: [1\n", [], r"recipe\.yaml:3: not YAML"),
        ("just text\n", [], r"recipe\.yaml: holds 'just text', not keys and values"),
        (b"name: \xff\n", [], r"recipe\.yaml: byte 6 is no UTF-8"),
        ("", [], r"recipe\.yaml: holds None"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_refused_in_one_line_with_key_value_and_remedy(written, text, overrides, message):
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(written(text), overrides)

    assert "\n" not in str(caught.value)


def test_a_missing_recipe_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml: no such recipe"):
        load_recipe("nowhere.yaml")


def test_every_key_says_what_it_is():
    from tfgpt.recipe_file import recipe_parser

    undocumented = [action.dest for action in recipe_parser("x")._actions if not action.help and "." in action.dest]

    assert undocumented == []
    assert Recipe.__doc__


def settings_of_few_values(section, config):
    """Give every setting below a section that takes one of a few values: the section's key, its dataclass and the setting's name."""
    for name, kind in typing.get_type_hints(type(config)).items():
        if dataclasses.is_dataclass(value := getattr(config, name)):
            yield from settings_of_few_values(f"{section}.{name}".removeprefix("."), value)
        elif "Literal" in str(kind) and "dict" not in str(kind):
            yield section, config, name


def test_python_is_told_of_a_value_that_there_is_not_as_a_recipe_is():
    recipe = Recipe(name="x", data=DataConfig(path="texts.txt"))
    settings = list(settings_of_few_values("", recipe))

    for section, config, name in settings:
        with pytest.raises(RecipeError, match=f"^{section}\\.{name}: 'nonsense' is not one of "):
            dataclasses.replace(config, **{name: "nonsense"})
    assert len(settings) > 25


@pytest.mark.parametrize(("key", "section"), [("data", DataConfig), ("adapt.pretrain", PretrainConfig)])
def test_the_source_with_such_a_value_is_told(key, section):
    sources = (SourceConfig(path="texts.txt"), SourceConfig(path="more.txt"))
    names = [name for _, _, name in settings_of_few_values("", sources[1])]

    for name in names:
        with pytest.raises(RecipeError, match=f"^{key}\\.sources\\[1\\]\\.{name}: 'nonsense' is not one of "):
            section(sources=(sources[0], dataclasses.replace(sources[1], **{name: "nonsense"})))
    assert {"kind", "documents", "examples"} <= set(names)
