"""Writing from sources: a model with an encoder behind the same engine, against full forward passes and PyTorch."""
import numpy as np
import pytest
import tensorflow as tf
import torch
from transformers import GPT2LMHeadModel

from tests.small_models import CONTEXT
from tfgpt.data.encode import SequenceMaker
from tfgpt.data.examples import Example
from tfgpt.generation.rows import framed_sources
from tfgpt.generation.text_model import TextModel
from tfgpt.models import build, surgery
from tfgpt.models.lite import LiteModel
from tfgpt.recipe import DataConfig, EncoderConfig
from tfgpt.text.encode import BatchEncoder

NEW, SOURCE_CONTEXT = 14, 32


@pytest.fixture(scope="module")
def text_model(translator, tokenizer):
    return TextModel(translator, tokenizer)


@pytest.fixture(scope="module")
def sources(prompts):
    """Twenty of them: empty, short, longer than the encoder takes, other scripts."""
    return prompts


@pytest.fixture(scope="module")
def greedy(text_model, sources):
    return text_model.generate(sources, NEW, top_log_probs=0)


@pytest.fixture(scope="module")
def decoder(translator, tmp_path_factory):
    """The decoder in PyTorch."""
    torch.set_num_threads(1)  # PyTorch's threads would fight TensorFlow's for the cores
    folder = tmp_path_factory.mktemp("translator")
    translator.save_pretrained(folder)
    return GPT2LMHeadModel.from_pretrained(folder).eval()


def framed(tokenizer, source):
    """Return the ids that the encoder reads, by the Python tokenizer."""
    return [*tokenizer(source, verbose=False).input_ids[: SOURCE_CONTEXT - 1], tokenizer.eos_token_id]


def states_of(translator, ids):
    return translator.encode(tf.constant([ids], tf.int32), tf.constant([len(ids)])).states


def torch_states(translator, tokenizer, source):
    return torch.tensor(states_of(translator, framed(tokenizer, source)).numpy())


def test_greedy_texts_are_those_of_full_forward_passes(translator, tokenizer, sources, greedy):
    full = tf.function(lambda ids, states: translator(ids, encoder_hidden_states=states).logits, reduce_retracing=True)
    for source, answer in zip(sources, greedy):
        states, ids = states_of(translator, framed(tokenizer, source)), [tokenizer.eos_token_id]
        while len(ids) <= NEW and (len(ids) == 1 or ids[-1] != tokenizer.eos_token_id):
            ids.append(int(tf.argmax(full(tf.constant([ids]), states)[0, -1])))

        assert [token.id for token in answer.tokens] == ids[1:]
    assert len({answer.text for answer in greedy}) > 15  # the texts do depend on the source


def test_a_rows_text_depends_on_its_own_source_alone(text_model, sources, greedy):
    backwards = text_model.generate(sources[::-1], NEW)[::-1]
    alone = [text_model.generate([source], NEW)[0] for source in sources]

    for one, other, third in zip(greedy, backwards, alone):
        assert one.text == other.text == third.text
        assert one.log_prob == pytest.approx(third.log_prob, abs=1e-4)  # padded sums of fp32 terms


def test_the_encoder_reads_what_it_is_trained_on(tokenizer, sources):
    config = DataConfig(path="-", examples="translation", length=CONTEXT, source_length=SOURCE_CONTEXT)
    maker = SequenceMaker(config, BatchEncoder(tokenizer), tokenizer.eos_token_id)
    tokens = maker.tokens([Example((("x", True),), "", encoder_text=source) for source in sources])

    ids = tf.ragged.constant([tokenizer(source, verbose=False).input_ids for source in sources], tf.int32)
    rows = framed_sources(ids, SOURCE_CONTEXT, tokenizer.eos_token_id)

    assert rows.values.numpy().tolist() == tokens.encoder_inputs.tolist()
    assert rows.row_lengths().numpy().tolist() == tokens.encoder_sizes.tolist()
    assert tokens.encoder_cut.any() and not tokens.encoder_cut.all()


def test_a_source_too_long_keeps_its_first_tokens(text_model, tokenizer, documents):
    text = documents[0][:900]
    ids = tokenizer(text, verbose=False).input_ids

    whole, cut = text_model.generate([text], NEW)[0], text_model.generate_from_ids([ids[: SOURCE_CONTEXT - 1]], max_new_tokens=NEW)[0]
    other = text_model.generate_from_ids([ids[: SOURCE_CONTEXT - 2]], max_new_tokens=NEW)[0]

    assert whole == cut and abs(whole.log_prob - other.log_prob) > 0.01


def test_ids_padded_on_either_side_are_the_same_source(text_model, tokenizer, sources):
    ids = tokenizer(sources[2]).input_ids
    rows, mask = np.zeros([2, len(ids) + 5], int), np.zeros([2, len(ids) + 5], int)
    rows[0, 5:], mask[0, 5:] = ids, 1
    rows[1, : len(ids)], mask[1, : len(ids)] = ids, 1

    left, right = text_model.generate_from_ids(rows, mask, NEW)

    assert left.text == right.text == text_model.generate([sources[2]], NEW)[0].text


def test_the_whole_context_is_there_for_what_is_written(text_model, sources):
    answers = text_model.generate(sources, 1000, banned_tokens=[text_model.tokenizer.end_of_text])

    assert {answer.token_count for answer in answers} == {CONTEXT - 1}  # and the end-of-text token before it


def test_samples_stop_strings_bans_and_forced_tokens_work(text_model, sources):
    sampled = text_model.generate(sources[:3], NEW, samples=4, temperature=1.0, seed=5)
    again = text_model.generate([sources[1]], NEW, temperature=1.0, seed=[7])
    forced = text_model.generate(sources[:3], NEW, forced_tokens=" said: no.", stop=["o."])
    free = text_model.generate(sources[:1], NEW, top_log_probs=2)[0]
    banned = text_model.generate(sources[:1], NEW, banned_tokens=[free.tokens[0].id], top_log_probs=2)[0]

    assert len({answer.text for answer in sampled[:4]}) == 4 and sampled[6].text == again[0].text
    assert [answer.text for answer in forced] == [" said: n"] * 3 and {answer.finish_reason for answer in forced} == {"stop"}
    assert banned.tokens[0].id == free.tokens[0].top[1][0]


def test_look_up_and_streams_give_the_same_texts(text_model, sources, greedy):
    looked_up = text_model.generate(sources, NEW, prompt_lookup_num_tokens=6)
    streamed = ["".join(text_model.stream(source, NEW)) for source in sources[:5]]

    assert [answer.text for answer in looked_up] == [answer.text for answer in greedy]
    assert streamed == [answer.text for answer in greedy[:5]]


def test_log_probs_are_pytorchs(translator, decoder, tokenizer, sources, greedy):
    for source, answer in zip(sources, greedy):
        assert answer.log_prob == pytest.approx(torch_log_prob(translator, decoder, tokenizer, source, [token.id for token in answer.tokens]), abs=2e-3)


def torch_log_prob(translator, decoder, tokenizer, source, ids):
    inputs = torch.tensor([[tokenizer.eos_token_id, *ids[:-1]]])
    with torch.no_grad():
        logits = decoder(inputs, encoder_hidden_states=torch_states(translator, tokenizer, source)).logits[0].double()
    return torch.log_softmax(logits, -1)[range(len(ids)), ids].sum().item()


@pytest.mark.parametrize("settings", [{}, {"length_penalty": 0.0, "early_stopping": True}])
def test_beam_search_finds_pytorchs_texts(translator, decoder, tokenizer, text_model, sources, settings):
    ours = text_model.search(sources, 4, NEW, **settings)

    for source, answer in zip(sources, ours):
        states = torch_states(translator, tokenizer, source)
        written = decoder.generate(torch.tensor([[tokenizer.eos_token_id]]), encoder_hidden_states=states, num_beams=4, max_new_tokens=NEW, do_sample=False,
                                   pad_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id, use_cache=False, **settings)
        assert answer.text == tokenizer.decode(written[0, 1:], skip_special_tokens=True)


def test_a_search_depends_on_its_own_source_alone(text_model, sources, greedy):
    together, alone = text_model.search(sources[:8], 3, NEW), [text_model.search([source], 3, NEW)[0] for source in sources[:8]]

    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.text for answer in text_model.search(sources, 1, NEW)] == [answer.text for answer in greedy]


def test_targets_are_scored_beside_their_sources_as_by_pytorch(translator, decoder, tokenizer, text_model, sources):
    targets = [" a text", "", "other words, and more", "naïve"]

    scores = text_model.score_targets(sources[:4], targets, batch_size=3)

    for source, target, score in zip(sources, targets, scores):
        ids = [*tokenizer(target).input_ids, tokenizer.eos_token_id]
        expected = torch_log_prob(translator, decoder, tokenizer, source, ids)
        assert score.log_prob == pytest.approx(expected, abs=2e-3) and score.token_count == len(ids)  # fp32 sums of terms up to 40
        assert score.perplexity == pytest.approx(np.exp(-expected / len(ids)), rel=1e-3)


def test_the_likeliest_answer_to_a_source_is_chosen(text_model, sources):
    answers = [" a text", "words", "naïve"]

    choice = text_model.choose([sources[3]], answers)[0]

    expected = [score.log_prob for score in text_model.score_targets([sources[3]] * 3, answers)]
    np.testing.assert_allclose(choice.log_probs, expected, atol=1e-4)
    assert choice.answer == answers[int(np.argmax(expected))]


@pytest.mark.slow
def test_a_draft_model_with_or_without_an_encoder_changes_no_text(model, translator, tokenizer, sources, greedy):
    small = surgery.add_encoder(model, EncoderConfig(kind="copy", layers=1, context=SOURCE_CONTEXT))
    for draft in (translator, small, model):
        assert [answer.text for answer in TextModel(translator, tokenizer, draft).generate(sources[:6], NEW)] == [answer.text for answer in greedy[:6]]
    with pytest.raises(ValueError, match="draft: it has an encoder and the model has none"):
        TextModel(model, tokenizer, translator)


@pytest.mark.parametrize("kind", [pytest.param("bfloat16", marks=pytest.mark.slow), "int8"])
def test_stored_weights_write_by_themselves_what_full_passes_choose(translator, tokenizer, sources, tmp_path, kind):
    translator.save_pretrained(tmp_path)
    stored = build.load_model(tmp_path, kind)
    text_model = TextModel(stored, tokenizer)

    answers, alone = text_model.generate(sources[:6], 6, top_log_probs=0), [text_model.generate([source], 6)[0] for source in sources[:6]]

    assert [answer.text for answer in answers] == [answer.text for answer in alone]
    likely = [token.log_prob for answer in answers for token in answer.tokens]
    full = tf.function(lambda ids, source: stored.read(ids, tf.range(tf.shape(ids)[1])[tf.newaxis], tf.range(tf.shape(ids)[1])[tf.newaxis], None, source)[0])
    read = tf.function(stored.encode)
    expected = []
    for source, answer in zip(sources, answers):
        ids, written = framed(tokenizer, source), [token.id for token in answer.tokens]
        logits = full(tf.constant([[tokenizer.eos_token_id, *written[:-1]]]), read(tf.constant([ids], tf.int32), tf.constant([len(ids)])))
        expected += np.take_along_axis(tf.nn.log_softmax(logits[0]).numpy(), np.array(written)[:, np.newaxis], axis=1)[:, 0].tolist()
    np.testing.assert_allclose(likely, expected, atol=0.05)  # bfloat16 rounds a product of another shape elsewhere


def test_what_needs_something_else_says_so(model, translator, text_model, tokenizer):
    with pytest.raises(ValueError, match=r"score: this model has an encoder, .*; call score_targets\(sources, texts\)"):
        text_model.score(["a text"])
    with pytest.raises(ValueError, match=r"score_targets: the target 'x x.*' has \d+ tokens; give 0 to 48, the context"):
        TextModel(model, tokenizer).score_targets(["a"], ["x " * 60])
    with pytest.raises(ValueError, match="score_targets: 2 sources and 1 targets; give two lists"):
        text_model.score_targets(["a", "b"], ["c"])
    with pytest.raises(ValueError, match=r"score_targets: the target 'x x.*' has \d+ tokens; give 0 to 47, the context without its end"):
        text_model.score_targets(["a"], ["x " * 60])
    with pytest.raises(ValueError, match="engine lite: it takes no model with an encoder or cross-attention; load it with engine graph"):
        LiteModel(translator)
