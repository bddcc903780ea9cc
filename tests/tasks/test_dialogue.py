"""Dialogues: from a user's file to a run's figures, with a memory that fits the context, and talked with from Python."""
import json
import re

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from tests.commands import called
from tfgpt import cli
from tfgpt.data.intake import Intake
from tfgpt.data.made_dialogues import NUMBERS, made_dialogues
from tfgpt.recipe_file import load_recipe
from tfgpt.stages.records import task_records
from tfgpt.tasks.dialogue import CANDIDATES, TASK, Dialogue, candidates_of, rank_of_first
from tfgpt.text.chat import chat_prompt, remembered

RECIPE = """
name: talk
data: {{path: {path}, length: 40, validation: 0.3, bad_records: {bad}}}
tokenizer: {{vocab: 300}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.0}}
task: {{kind: dialogue{more}}}
train: {{steps: 3, global_batch_size: 4, evaluate_every: 3, sample_prompts: []}}
evaluate: {{batch_size: 8}}
"""


def turn(role, content):
    return {"role": role, "content": content}


def chat(*contents, system=""):
    roles = ("user", "assistant") * len(contents)
    return [*([turn("system", system)] if system else []), *(turn(role, content) for role, content in zip(roles, contents))]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    rows = [{"messages": chat(f"Box {number} is here.", "Fine.", "Which box?", f"Box {number}.", system="Be brief." if number % 2 else "")}
            for number in range(40)]
    bad = [{"messages": chat("Only a question?")}, {"messages": chat("A question?", " ")}, {"messages": "no list"}, {"messages": [{"role": "user"}]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *bad]))
    return path


@pytest.fixture(scope="module")
def finished(chats, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "talk.yaml").write_text(RECIPE.format(path=chats, bad="skip", more=""))
    done = called("run", folder / "talk.yaml", "--output", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_a_run_ranks_the_true_replies_of_what_it_holds_out(finished):
    folder, printed = finished

    evaluation, answers = json.loads((folder / "evaluation.json").read_text()), lines_of(folder / "answers.jsonl")
    assert set(evaluation["metrics"]) == {"accuracy", "recall_at_1", "f1", "perplexity"} and len(answers) <= 10  # among so few recall@10 is 1
    assert evaluation["metrics"]["recall_at_1"]["value"] == np.mean([row["answer"]["rank"] == 1 for row in answers])
    assert {row["answer"]["candidates"] for row in answers} == {len(answers)} and "TF-IDF retrieval" in printed
    assert json.loads((folder / "records" / "stats.json").read_text())["refused"] == {"no reply": 1, "empty reply": 1, "no chat": 2}


def test_the_perplexity_is_that_of_all_reply_tokens_the_end_of_each_among_them(finished):
    """All held-out dialogues fit the sequences, so it is what the trainer's own loss says of the same tokens."""
    evaluation = json.loads((finished[0] / "evaluation.json").read_text())

    answers = [row["answer"] for row in lines_of(finished[0] / "answers.jsonl")]
    assert sum(answer["token_count"] for answer in answers) == evaluation["tokens"] and not any(answer["cut"] for answer in answers)
    # A dialogue is trained on from an end-of-text token on, which a prompt does not have: after three steps that changes little.
    assert evaluation["metrics"]["perplexity"]["value"] == pytest.approx(evaluation["perplexity"], rel=0.02)


def test_a_file_of_two_or_three_columns_is_one_exchange_a_row(tmp_path):
    (tmp_path / "faq.csv").write_text("frage,antwort,system\nWhat is 0?, It is 0. ,\nWhat is 1?,It is 1.,Be kind.\n")
    (tmp_path / "talk.yaml").write_text(RECIPE.format(path=tmp_path / "faq.csv", bad="refuse", more=", columns: {user: frage, reply: antwort}"))
    recipe, _ = load_recipe(tmp_path / "talk.yaml")

    records = list(task_records(recipe, Intake(recipe.data)))

    assert [record["messages"] for record in records] == [chat("What is 0?", "It is 0."), chat("What is 1?", "It is 1.", system="Be kind.")]


@pytest.mark.parametrize(("more", "message"), [
    ([], "chats.jsonl:41: no turn is the assistant's; give it one at least, of role assistant, or set data.bad_records to skip"),
    (["--task.columns.messages", "chat"], "no column 'chat' (columns: messages); set task.columns.messages to the column of the turns, or task.columns.user"),
    (["--task.template", "{user}"], "task.template: '{user}', and dialogue has no prompt that a template makes; leave it out"),
])
def test_a_record_that_cannot_be_used_is_refused_before_any_training(chats, tmp_path, more, message):
    (tmp_path / "talk.yaml").write_text(RECIPE.format(path=chats, bad="refuse", more=""))

    done = called("run", tmp_path / "talk.yaml", "--output", tmp_path / "run", *more)

    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(("long_text", "cut", "refused"), [("window", 10, 0), ("refuse", 0, 10)])
def test_a_dialogue_longer_than_a_sequence_is_trained_on_in_pieces_or_refused(tmp_path, long_text, cut, refused):
    rows = [chat(f"Box {number}.", "Fine.") for number in range(30)] + [chat("Box 99.", "No " * 40 + f"{number}.") for number in range(10)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    (tmp_path / "talk.yaml").write_text(RECIPE.format(path=tmp_path / "chats.jsonl", bad="skip", more=f", long_text: {long_text}"))

    assert cli.main(["data", "prepare", str(tmp_path / "talk.yaml"), "--output", str(tmp_path / "run")]) == 0

    stats = json.loads((tmp_path / "run" / "data" / "stats.json").read_text())
    of_splits = stats["splits"].values()
    assert (sum(of["cut"] for of in of_splits), sum(of["too_long"] for of in of_splits), sum(stats["refused"].values())) == (cut, refused, refused)
    assert stats["documents"] == sum(stats["used"].values()) == 40 - refused


def test_what_is_too_long_to_be_weighed_whole_is_counted(text_model, tokenizer):
    replies = ["Fine.", "No " * 40, "Yes."]
    records = [{"messages": chat(said, reply)} for said, reply in zip(["Box?", "Box?", "Box " * 40], replies)]

    short, long_reply, long_turn = TASK.answers(text_model, records, None, 3, lambda count: None)

    assert [answer["cut"] for answer in (short, long_reply, long_turn)] == [0, 1, 1]
    assert long_reply["token_count"] == 24 and long_turn["left_out"] == 1  # half of the context; and no turn is read whole
    first = tokenizer.decode(tokenizer(f" {replies[1]}").input_ids[:24])
    [alone] = text_model.score_targets(["<|endoftext|>User: Box?\nAssistant:"], [first])
    assert long_reply["log_prob"] == pytest.approx(alone.log_prob, abs=1e-3)  # fp32 sums


def test_memory_leaves_out_the_oldest_turns_and_keeps_the_system_text_and_the_last_turn():
    turns = chat("one", "two", "three", "four", "five", system="Be brief.")
    prompts = [chat_prompt([turns[0], *turns[first:]]) for first in (1, 3, 5)]

    found = [remembered(turns, lambda prompt, longest=prompt: len(prompt) <= len(longest)) for prompt in prompts]

    assert [memory.prompt for memory in found] == prompts and [memory.left_out for memory in found] == [0, 2, 4]
    assert found[2].turns == (turns[0], turns[5])
    asked = []
    many = chat(*map(str, range(1001)), system="Be brief.")
    start = next(start for start in range(1, 1002, 2) if len(chat_prompt([many[0], *many[start:]])) <= 300)
    assert remembered(many, lambda prompt: asked.append(prompt) or len(prompt) <= 300).turns[1:] == tuple(many[start:]) and len(asked) < 14
    # Room for one turn more than two whole exchanges is none for an answer without its question.
    assert remembered(turns, lambda prompt: len(prompt) < len(prompts[0])).left_out == 2
    with pytest.raises(ValueError, match="the system text and the last turn .'five'. are longer than what the model reads"):
        remembered(turns, lambda prompt: len(prompt) < len(prompts[2]))
    with pytest.raises(ValueError, match="turn 1 is no object with the texts role and content"):
        remembered([turns[0], {"role": "user"}], lambda prompt: True)


def test_one_reply_is_asked_for(text_model):
    dialogue = Dialogue(text_model)

    with pytest.raises(ValueError, match="samples: 2, and one reply is remembered"):
        dialogue.say("It was here.", samples=2)
    with pytest.raises(ValueError, match=r"say\[0\]: '\\udcff' at 2 is half of a surrogate pair"):
        dialogue.say("It\udcff")
    with pytest.raises(ValueError, match=r"system\[0\]: '\\udcff' at 4 is half of a surrogate pair"):
        Dialogue(text_model, system="Be b\udcff")
    assert not dialogue.turns


def test_a_talk_has_the_replies_of_the_prompts_that_its_memory_makes(text_model, tokenizer):
    dialogue, turns, forgotten = Dialogue(text_model, "Be brief."), chat(system="Be brief."), 0
    for said in ("It was here.", "Who was it?", "And where was that?"):
        turns = [*turns, turn("user", said)]
        while len(tokenizer(chat_prompt(turns)).input_ids) > 48 - 5:  # the system text, and then two turns at once
            turns, forgotten = [turns[0], *turns[3:]], forgotten + 2

        reply = dialogue.say(said, 5)

        assert reply.text == text_model.generate([chat_prompt(turns)], 5)[0].text.strip() and reply.left_out == dialogue.left_out == forgotten
        turns.append(turn("assistant", reply.text))
        assert dialogue.turns == turns
    assert forgotten > 0

    with pytest.raises(ValueError, match="shorten them"):
        dialogue.say("word " * 60)
    assert dialogue.turns == turns  # as if it had not been said


def test_the_rank_of_a_reply_is_by_its_likelihood_a_token(text_model):
    """Against what a search by hand finds: each candidate behind the dialogue, weighed by itself."""
    texts = [f"It is {word}." for word in ("here", "there", "naïve", "a statement of the language", "x")]
    records = [{"messages": chat("Where?", text)} for text in texts]

    answers = TASK.answers(text_model, records, None, 2, lambda count: None)

    for record, answer, candidates in zip(records, answers, candidates_of(records)):
        prompt = chat_prompt(record["messages"][:1])
        ends = [f" {text}<|endoftext|>" for text in candidates]
        likely = [text_model.score_targets([prompt], [end])[0] for end in ends]
        own = likely[0].log_prob / likely[0].token_count
        assert answer["rank"] == 1 + sum(score.log_prob / score.token_count > own for score in likely)
        assert answer["log_prob"] == pytest.approx(likely[0].log_prob, abs=1e-3)  # fp32 sums of another batch
        assert answer["text"] == text_model.generate([prompt], 64)[0].text.strip()


def test_candidates_are_other_records_replies_the_same_ones_every_time():
    records = [{"messages": chat("?", f"Reply {number % 150}.")} for number in range(300)]

    candidates = candidates_of(records)

    assert candidates == candidates_of(records)
    assert all(len(set(of)) == len(of) == CANDIDATES and of[0] == record["messages"][-1]["content"] for of, record in zip(candidates, records))
    assert rank_of_first([1.0, 2.0, 1.0, 1.0, 0.0]) == 3  # behind one, and beside two


def test_the_baseline_ranks_by_the_cosine_of_tf_idf():
    train = [{"messages": chat("where is the red box", "the red box is here")}, {"messages": chat("how many coins are there", "two coins")}]
    held_out = [{"messages": chat("a red box is where", "the red box is there")}, {"messages": chat("coins or no coins", "two or no coins")},
                {"messages": chat("blue", "many")}]

    found = TASK.baselines(None, train, held_out, None)

    vectors = TfidfVectorizer(token_pattern=r"\b\w+\b").fit([turn["content"] for record in train for turn in record["messages"]])
    for record, candidates, answer in zip(held_out, candidates_of(held_out), found["TF-IDF retrieval among the candidates"]):
        likeness = cosine_similarity(vectors.transform([record["messages"][0]["content"]]), vectors.transform(candidates))[0]
        assert answer["rank"] == rank_of_first(likeness) and likeness[candidates.index(answer["text"])] == likeness.max()
    assert [answer["text"] for answer in found["TF-IDF retrieval from the training part"]][:2] == ["the red box is here", "two coins"]


def test_metrics_are_those_of_ranks_words_and_tokens():
    records = [{"messages": chat("?", "in Oslo")}, {"messages": chat("?", "no")}]
    answers = [{"text": "Oslo", "rank": 1, "log_prob": -3.0, "token_count": 3}, {"text": "no", "rank": 11, "log_prob": -1.0, "token_count": 1}]

    found = {name: metric.value for name, metric in TASK.metrics(records, answers).items()}

    assert found == {"recall_at_1": 0.5, "f1": pytest.approx((2 / 3 + 1) / 2), "perplexity": pytest.approx(np.e)}  # of two replies one is among the first ten
    many = [{"messages": chat("?", f"reply {number}")} for number in range(11)]
    assert TASK.metrics(many, [{"text": "", "rank": rank} for rank in range(1, 12)])["recall_at_10"].value == pytest.approx(10 / 11)


def test_what_is_made_can_be_checked():
    """Each last reply by a reader of its own, which knows only what was said."""
    patterns = {"live": r"liv\w+ in (\w+)", "work": r"work\w* as a (\w+)", "keep": r"keeps? a (\w+)", "drive": r"drives? a (\w+) car"}
    needed_memory = 0
    for turns in made_dialogues()[::20]:
        said = [one["content"] for one in turns if one["role"] == "user"]
        question, reply = said[-1], turns[-1]["content"].lower()
        if match := re.search(r"how many (\w+) do i have", question.lower()):
            needed_memory += 1
            number = re.search(r"you have (\w+) ", reply)[1]
            assert number == NUMBERS[counted(said, match[1])]
        elif "told" not in reply and (verb := next((verb for verb in patterns if verb in question), None)):
            person = next(one for one in ("my sister", "my brother", "my neighbour", " I ") if one in f"{question.lower()} {question}".replace("?", " "))
            about = [text for text in said[:-1] if person.strip().lower() in text.lower() and (person != " I " or "my" not in text.lower())]
            values = [match[1].lower() for text in about if (match := re.search(patterns[verb], text))]
            needed_memory += 1
            assert values[-1] in reply
    assert needed_memory > 250


def counted(said, goods):
    """Return how many of something there are, by what was said."""
    number, last = 0, None
    for text in said:
        match = re.match(r"I (have|found|gave away) (\w+)(?: more)?(?: of the)? ?(\w*)", text)
        if not match:
            continue
        last = match[3] or last
        if last == goods:
            amount = NUMBERS.index(match[2])
            number = {"have": amount, "found": number + amount, "gave away": number - amount}[match[1]]
    return number
