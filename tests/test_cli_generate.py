"""`tfgpt generate` against the model in Python."""
import io
import json

import pytest

from tests.commands import called
from tfgpt.cli import main
from tfgpt.text.chat import chat_prompt


@pytest.fixture(scope="module")
def run_folder(model_folder, tokenizer, tmp_path_factory):
    """The parts of a run's folder that are asked for."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "model").symlink_to(model_folder)
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def lines_of(capsys, *arguments):
    code = main(["generate", *map(str, arguments)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


@pytest.mark.parametrize("options", [[], ["--engine", "lite"], ["--draft", "itself", "--draft-tokens", 3], ["--engine", "lite", "--draft-weights", "int8"]])
def test_a_prompt_is_continued(run_folder, text_model, capsys, options):
    options = [run_folder if option == "itself" else option for option in options]
    out = lines_of(capsys, "--model", run_folder, "--prompt", "The with", "--max-new-tokens", 9, "--no-repeat-ngram-size", 2, *options)

    assert out == text_model.generate(["The with"], 9, no_repeat_ngram_size=2)[0].text + "\n"


@pytest.mark.parametrize(("ending", "lines"), [("txt", "The with\n   \n"), ("jsonl", '{"prompt": "The with"}\n\n')])
def test_a_byte_order_mark_and_blank_lines_are_no_part_of_a_prompt(run_folder, tmp_path, capsys, ending, lines):
    path = tmp_path / f"prompts.{ending}"
    path.write_text(lines, "utf-8-sig")

    out = lines_of(capsys, "--model", run_folder, "--prompts", path, "--max-new-tokens", 2, "--json")

    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["The with"]


@pytest.mark.parametrize("ending", ["txt", "jsonl"])
def test_a_file_of_prompts_gives_objects_in_its_order(run_folder, text_model, tmp_path, capsys, ending):
    prompts = ["def f(x):", "naïve café", "a", "The with statement", "x = "]
    path = tmp_path / f"prompts.{ending}"
    path.write_text("\n".join(prompts) + "\n\n" if ending == "txt" else "\n".join(json.dumps({"prompt": prompt}) for prompt in prompts), "utf-8")

    out = lines_of(capsys, "--model", run_folder, "--prompts", path, "--samples", 2, "--seed", 5, "--temperature", 0.8, "--max-new-tokens", 6, "--json",
                   "--batch-size", 3)

    found = [json.loads(line) for line in out.split("\n")[:-1]]
    expected = [{"prompt": prompt, "sample": sample} | text_model.generate([prompt], 6, temperature=0.8, seed=5 + sample)[0]._asdict()
                for prompt in prompts for sample in range(2)]
    assert all(row.pop("tokens") == () for row in expected)
    assert [row | {"log_prob": pytest.approx(row["log_prob"], abs=1e-3)} for row in found] == expected  # sums of fp32 in another batch
    assert found[0]["text"] != found[1]["text"]


def test_stop_strings_forced_text_and_log_probabilities_are_options(run_folder, text_model, capsys):
    out = lines_of(capsys, "--model", run_folder, "--prompt", "The with", "--forced-text", " one, two", "--stop", ", t", "--json", "--log-probs", 2)

    row, expected = json.loads(out), text_model.generate(["The with"], forced_tokens=" one, two", stop=[", t"], top_log_probs=2)[0]
    assert row["text"] == expected.text == " one"
    assert [token["text"] for token in row["tokens"]] == [token.text for token in expected.tokens]
    assert [[number for number, _ in token["top"]] for token in row["tokens"]] == [[number for number, _ in token.top] for token in expected.tokens]


def test_a_chat_has_the_turns_before_each_answer_that_the_context_holds_and_the_system_text(run_folder, text_model, tokenizer, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\nWho?\nAnd where was it?\n"))

    done = called("generate", "--model", run_folder, "--chat", "--max-new-tokens", "5", "--system", "Be brief.", "--json")

    turns, left_out = [{"role": "system", "content": "Be brief."}], 0
    for said, found in zip(("Hi", "Who?", "And where was it?"), map(json.loads, done.stdout.splitlines()), strict=True):
        turns.append({"role": "user", "content": said})
        while len(tokenizer(chat_prompt(turns)).input_ids) > 48 - 5:  # the context with room for the reply: an exchange less
            turns, left_out = [turns[0], *turns[3:]], left_out + 2
        expected = text_model.generate([chat_prompt(turns)], 5)[0]
        turns.append({"role": "assistant", "content": expected.text.strip()})
        assert (found["prompt"], found["text"], found["left_out"]) == (said, expected.text, left_out)
    assert left_out > 0 and f"the first {left_out} turns are forgotten" in done.stderr


def test_a_turn_that_is_too_long_is_an_error_in_one_line(run_folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n" + "word " * 99))

    done = called("generate", "--model", run_folder, "--chat", "--max-new-tokens", "5")

    assert done.returncode == 2 and done.stdout.count("\n") == 1  # the first turn is answered
    assert "the system text and the last turn ('word word" in done.stderr and done.stderr.count("\n") == 1


def test_a_search_is_pytorchs(run_folder, torch_model, tokenizer, capsys):
    ids = tokenizer("The with", return_tensors="pt")
    end = tokenizer.eos_token_id
    theirs = torch_model.generate(**ids, num_beams=4, length_penalty=0.5, early_stopping=True, no_repeat_ngram_size=2, max_new_tokens=9, do_sample=False,
                                  pad_token_id=end, eos_token_id=end)[0, ids.input_ids.shape[1] :]  # fmt: skip

    out = lines_of(capsys, "--model", run_folder, "--prompt", "The with", "--max-new-tokens", 9, "--no-repeat-ngram-size", 2, "--beams", 4,
                   "--length-penalty", 0.5, "--early-stopping")

    assert out == tokenizer.decode(theirs, skip_special_tokens=True) + "\n"
    assert out != lines_of(capsys, "--model", run_folder, "--prompt", "The with", "--max-new-tokens", 9, "--no-repeat-ngram-size", 2)


def test_a_search_of_several_prompts_takes_stops_and_gives_objects(run_folder, text_model, capsys):
    prompts, stop = ["The with", "def f(x):", "a"], text_model.search(["The with"], max_new_tokens=9)[0].text[2:5]

    out = lines_of(capsys, "--model", run_folder, *(part for prompt in prompts for part in ("--prompt", prompt)), "--beams", 3, "--stop", stop, "--json",
                   "--early-stopping", "never", "--max-new-tokens", 9, "--batch-size", 2)

    expected = text_model.search(prompts, 3, 9, early_stopping="never", stop=[stop])
    assert [json.loads(line)["text"] for line in out.split("\n")[:-1]] == [row.text for row in expected]
    assert not any(stop in row.text for row in expected)


def test_the_seeds_of_samples_go_round_the_ends_as_in_python(run_folder, text_model, capsys):
    last = 2**63 - 1

    out = lines_of(capsys, "--model", run_folder, "--prompt", "It was", "--samples", 2, "--seed", last, "--temperature", 0.8, "--max-new-tokens", 6, "--json")

    expected = text_model.generate(["It was"], 6, temperature=0.8, seed=last, samples=2)
    assert [json.loads(line)["text"] for line in out.split("\n")[:-1]] == [row.text for row in expected]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--prompt", "x"], "--model is missing"),
    (["--model", "RUN", "--prompt", "x", "--length-penalty", "2"], "--length-penalty 2.0 is for a search; give --beams too"),
    (["--model", "RUN", "--prompt", "x", "--early-stopping", "never"], "--early-stopping never is for a search"),
    (["--model", "RUN", "--prompt", "x", "--beams", "-1"], "--beams -1 is too small"),
    (["--model", "RUN", "--prompt", "x", "--beams", "4", "--temperature", "0.5"], "--temperature has no meaning in a search; leave it out, or --beams 4"),
    (["--model", "RUN", "--prompt", "x", "--beams", "4", "--draft-weights", "int8"], "--draft-weights has no meaning in a search"),
    (["--model", "RUN", "--prompt", "x", "--draft-weights", "float32"], "draft_weights: in float32 the model guesses no faster than it writes in float32"),
    (["--model", "RUN", "--beams", "4", "--chat"], "--chat has no meaning in a search"),
    (["--model", "RUN", "--prompt", "x", "--beams", "4", "--length-penalty", "11"], "length_penalty: 11.0 is not between -10 and 10"),
    (["--model", "RUN", "--prompt", "x", "--beams", "1000000"], "beams 1000000 is no whole number from 1 to"),
    (["--model", "RUN"], "give one of --prompt TEXT, --prompts FILE and --chat"),
    (["--model", "RUN", "--prompt", "x", "--chat"], "give one of --prompt"),
    (["--model", "RUN", "--prompt", "x", "--system", "Be brief."], "--system 'Be brief.' is for a talk; give --chat"),
    (["--model", "RUN", "--prompt", "x", "--top-p", "1.5"], "top_p: 1.5 is not between 0 and 1"),
    (["--model", "RUN", "--prompt", "x", "--samples", "2"], "--samples 2 of a greedy prompt"),
    (["--model", "RUN", "--prompt", "x", "--batch-size", "0"], "--batch-size 0 is too small"),
    (["--model", "RUN", "--prompt", "x", "--seed", "y"], "--seed: y is not a whole number"),
    (["--model", "RUN", "--prompt", "x", "--prompt", "\udcff"], "prompts[1]: '\\udcff' at 0 is half of a surrogate pair and no character"),
    (["--model", "RUN", "--chat", "--system", "a\udcff"], "--system: '\\udcff' at 1 is half of a surrogate pair"),
    (["--model", "RUN", "--prompts", "nowhere.txt"], "--prompts nowhere.txt cannot be read"),
    (["--model", "RUN", "--prompts", "/dev/null"], "--prompts /dev/null holds no prompt"),
    (["--model", "RUN", "--prompt", "x", "--banned-token", "two words of it"], "'two words of it' is"),
    (["--model", "RUN", "--prompt", "x", "--stop", ""], "stop: '' is no text, or an empty one"),
    (["--model", "RUN", "--prompt", "x", "--log-probs", "2"], "--log-probs 2; give 0 or more, and --json"),
    (["--model", "nowhere/at/all", "--prompt", "x"], "nowhere/at/all is neither a folder with"),
])  # fmt: skip
def test_what_cannot_be_is_told_in_one_line(run_folder, capsys, arguments, message):
    assert main(["generate", *[str(run_folder) if argument == "RUN" else argument for argument in arguments]]) == 2

    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(("line", "message"), [
    ("{", "is no object with a prompt"),
    ('{"text": "x"}', "is no object with a prompt"),
    ('{"prompt": 3}', "3 is no text"),
])  # fmt: skip
def test_a_bad_line_of_prompts_is_named(run_folder, tmp_path, capsys, line, message):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "x"}\n' + line)

    assert main(["generate", "--model", str(run_folder), "--prompts", str(path)]) == 2

    error = capsys.readouterr().err
    assert "line 2: " in error and message in error


def test_a_prompt_may_hold_other_line_ends_and_must_be_utf8(run_folder, text_model, tmp_path, capsys):
    path, prompt = tmp_path / "p.jsonl", "a\u2028b\x0cc"
    path.write_text(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\r\n\r\n", "utf-8")
    assert lines_of(capsys, "--model", run_folder, "--prompts", path, "--max-new-tokens", 4) == text_model.generate([prompt], 4)[0].text + "\n"

    path.write_bytes(b"caf\xe9")
    assert main(["generate", "--model", str(run_folder), "--prompts", str(path)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_tokenizer_of_another_model_is_told(model_folder, gpt2_tokenizer, tmp_path, capsys):
    (tmp_path / "model").symlink_to(model_folder)
    gpt2_tokenizer.save_pretrained(tmp_path / "tokenizer")

    assert main(["generate", "--model", str(tmp_path), "--prompt", "x"]) == 2
    assert "load the two from one run" in capsys.readouterr().err
