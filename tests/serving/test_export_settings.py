"""An export that XLA compiles, and one laid out for a GPU: in a plain session, as a C++ server runs them."""
import numpy as np
import pytest
import tensorflow as tf

from tfgpt.recipe import ExportConfig, RecipeError
from tfgpt.serving.batched import BatchedModel
from tfgpt.serving.export import export

NEW = 8


@pytest.fixture(scope="module")
def compiled(text_model, tmp_path_factory):
    return export(text_model, tmp_path_factory.mktemp("jit"), ExportConfig(jit=True, batch_sizes=(4,), max_new_tokens=NEW))


@pytest.fixture(scope="module")
def for_gpu(text_model, tmp_path_factory):
    return export(text_model, tmp_path_factory.mktemp("gpu"), ExportConfig(device="gpu", max_new_tokens=NEW))


def asked(version, signature, inputs):
    """Return what a session without Python functions gives, and its graph."""
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        of = tf.compat.v1.saved_model.load(session, ["serve"], str(version)).signature_def
        fetches = {key: info.name for key, info in of[signature].outputs.items()}
        found = session.run(fetches, {of[signature].inputs[name].name: np.array(value, object) for name, value in inputs.items()})
        return found, graph.as_graph_def()


def nodes_of(graph):
    """The nodes of the functions that signatures call: all but those that load and save, which are on the host wherever the rest is."""
    return [node for function in graph.library.function for node in function.node_def
            if not function.signature.name.startswith(("__inference__traced_save", "__inference__traced_restore"))]


def test_a_compiled_export_gives_the_same_texts_and_holds_compiled_functions(compiled, text_model, prompts):
    texts, graph = asked(compiled, "generate", {"prompt": prompts[:3]})
    vectors, _ = asked(compiled, "embed", {"text": prompts[:3]})

    assert [text.decode() for text in texts["text"]] == [row.text for row in text_model.generate(prompts[:3], NEW)]
    np.testing.assert_allclose(vectors["embedding"], text_model.embed(prompts[:3]), atol=2e-5)  # two libraries' sums of 32 to 128 products
    must = [function for function in graph.library.function if function.attr["_XlaMustCompile"].b]
    assert must and not [node.op for function in must for node in function.node_def if "String" in node.op or "Table" in node.op]


def test_for_a_gpu_the_tokenizer_stays_on_the_host_and_nothing_is_bound_to_the_gpu(for_gpu, exported, text_model, prompts):
    texts, graph = asked(for_gpu, "generate", {"prompt": prompts[:3]})
    plain = asked(exported, "tokenize", {"text": prompts[:1]})[1]

    assert [text.decode() for text in texts["text"]] == [row.text for row in text_model.generate(prompts[:3], NEW)]
    merging = [node for node in nodes_of(graph) if node.op in ("LookupTableFindV2", "UnicodeDecode", "UnsortedSegmentMin", "UniqueV2", "Unique")]
    assert len(merging) > 4 and all("CPU:0" in node.device for node in merging)
    assert not [node.name for node in nodes_of(graph) if "GPU" in node.device]
    assert any(node.op == "MatMul" and not node.device for node in nodes_of(graph))
    assert not [node.name for node in nodes_of(plain) if node.device]  # and by default nothing is placed at all


def test_both_are_written_from_in_the_servers_batch(compiled, for_gpu, text_model, prompts):
    for folder in (compiled, for_gpu):
        version = BatchedModel(folder)
        texts = version.predict("generate", {"prompt": np.array(prompts[:3], object)})["text"]
        version.close()

        assert [text.decode() for text in texts] == [row.text for row in text_model.generate(prompts[:3], NEW)]


def test_a_length_that_leaves_no_room_is_refused(text_model, tmp_path):
    with pytest.raises(RecipeError, match=r"export\.length_buckets: 48 tokens leave no room to write in the model's context of 48; give less"):
        export(text_model, tmp_path, ExportConfig(length_buckets=(16, 48)))
    assert list(tmp_path.iterdir()) == []
