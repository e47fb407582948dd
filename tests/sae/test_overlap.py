"""Overlap of topics: Jaccard indices, the null that keeps sizes and popularity, the original's ratio, bad files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mechlist.errors import InputError
from mechlist.sae.attributed import AttributedFeatures, read_attributed
from mechlist.sae.overlap import _trade, clustered, incidence, jaccard, original_ratio, overlap_p_values

A, B = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"


def attributed(**topics: Any) -> AttributedFeatures:
    return AttributedFeatures(model="m", metric="x", top_k=3, topics=topics)


def test_a_topic_s_features_are_those_of_its_lists_at_any_position_but_bos():
    data = attributed(
        one=[[(0, 9, A), (3, 1, A), (4, 1, A)], [(2, 1, B)]], two=[[(5, 1, A), (0, 1, B)]], three=[[(1, 7, A)]]
    )
    features, has = incidence(data)
    assert features == [(A, 1), (A, 7), (B, 1)]
    np.testing.assert_array_equal(has, [[True, False, True], [True, False, False], [False, True, False]])
    np.testing.assert_allclose(jaccard(has), [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])
    _, kept = incidence(data, keep_bos=True)
    np.testing.assert_allclose(jaccard(kept)[0, 1], 2 / 3)


def test_a_topic_with_nothing_but_bos_is_named():
    with pytest.raises(InputError, match=r"Topic 'two' has no feature but at position 0 \(BOS\)\."):
        incidence(attributed(one=[[(1, 1, A)]], two=[[(0, 1, A)]]))


def test_trades_keep_what_a_topic_and_a_feature_have():
    generator = np.random.default_rng(0)
    has = generator.random((6, 40)) < 0.3
    before = has.copy()
    for _ in range(20):
        _trade(has, generator)
    assert (has != before).any()
    np.testing.assert_array_equal(has.sum(0), before.sum(0))
    np.testing.assert_array_equal(has.sum(1), before.sum(1))


def test_p_values_find_a_planted_pair_and_are_fair_without_one():
    generator = np.random.default_rng(1)
    has = generator.random((8, 200)) < 0.1
    has[1, :20] = has[0, :20] = True
    p = overlap_p_values(has, 400, np.random.default_rng(0))
    assert np.isnan(np.diag(p)).all()
    np.testing.assert_array_equal(p, p.T)
    assert p[0, 1] == 1 / 401
    others = p[2:, 2:][np.triu_indices(6, 1)]
    assert 0.25 < others.mean() < 0.8
    assert np.isnan(overlap_p_values(has[:2], 10, generator)).all()


def test_the_original_ratio_by_hand():
    data = attributed(one=[[(1, 5, A), (2, 5, A), (3, 6, B)]], two=[[(4, 5, A)]])
    # Of hook A, one shared feature of two entries; of hook B none of one: mean .25, over two topics.
    np.testing.assert_allclose(original_ratio(data), [[(0.5 + 1) / 2 / 2, 0.125], [0.5 / 2, 0.25]])


def test_similar_topics_stand_together():
    similarity = np.eye(4)
    similarity[0, 2] = similarity[2, 0] = similarity[1, 3] = similarity[3, 1] = 0.9
    order = clustered(similarity).tolist()
    assert abs(order.index(0) - order.index(2)) == abs(order.index(1) - order.index(3)) == 1


def test_files_are_read_back_equal_and_faults_are_named(tmp_path: Path):
    data = attributed(one=[[(1, 5, A)]], two=[[(4, 5, A)], []])
    file = tmp_path / "features.json"
    file.write_text(data.to_json())
    assert read_attributed(file) == data
    good = json.loads(data.to_json())
    cases: dict[str, Any] = {
        "top_k must be there as int": good | {"top_k": "many"},
        "topics must be two at least, not 1": good | {"topics": {"one": [[]]}},
        "topic 'two' must hold one list at least": good | {"topics": {"one": [[]], "two": []}},
        r"topic 'two', list 1: an entry must be \[position, feature, hook\], not \[1, 2\]": good
        | {"topics": {"one": [[]], "two": [[[1, 2]]]}},
        "must hold an object": [1],
    }
    for said, value in cases.items():
        file.write_text(json.dumps(value))
        with pytest.raises(InputError, match=f"features.json: .*{said}"):
            read_attributed(file)
    file.write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        read_attributed(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_attributed(tmp_path / "none.json")
