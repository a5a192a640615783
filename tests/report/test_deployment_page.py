"""Which file to take: the table, the advice, the front; worked by hand."""

import pytest

from xkd_keras.report import deployment_page, findings


def entry(network, variant, top1, megabytes, milliseconds, kind="tflite"):
    tflite = f"tflite/{network}-{variant}.tflite"
    file = tflite if kind == "tflite" else f"savedmodel/{network}/1"
    return {
        **{"file": file, "kind": kind, "network": network, "variant": variant, "sha256": "x"},
        **{"bytes": round(megabytes * 1e6), "gzip_bytes": round(megabytes * 9e5)},
        **{"top1": top1, "validation_top1": top1, "agreement": 0.99, "max_difference": 0.01},
        "latency_ms": {"min": milliseconds * 0.9, "median": milliseconds},
    }


FILES = [
    entry("small", "float32", 0.95, 1.0, 1.0),
    entry("small", "int8", 0.946, 0.3, 0.3),
    entry("big", "float32", 0.96, 4.0, 5.0),
    entry("big", "int8", 0.956, 1.1, 2.0),
    entry("big", "savedmodel", 0.96, 4.2, 0.1, kind="savedmodel"),
]
MANIFEST = {
    **{"artifacts": FILES, "failed": [], "examples": {"validation": 1500, "test": 2000}},
    "class_names": ["cat", "dog"],
}


def test_the_fastest_of_the_nearly_best_tflite_files_is_advised():
    assert findings.advised(MANIFEST)["file"] == "tflite/big-int8.tflite"
    line = deployment_page.advice(MANIFEST)
    assert line.startswith("Take tflite/big-int8.tflite: 95.60 % top-1 in 1.10 MB and 2.00 ms.")
    assert (
        "within 0.5 points of the most accurate one on the 1,500 validation images; measure" in line
    )
    line = deployment_page.advice({**MANIFEST, "machine": "x86_64"})
    assert (
        "validation images, timed on the machine that exported (x86_64); measure on your own"
        " device" in line
    )


def test_the_advice_looks_at_validation_and_not_at_test():
    files = [dict(each) for each in FILES]
    files[1]["validation_top1"] = 0.957
    chosen = findings.advised({**MANIFEST, "artifacts": files})
    assert chosen["file"] == "tflite/small-int8.tflite"


@pytest.mark.parametrize(
    ("counts", "named", "guess"),
    [
        ([500, 25], "always answering c_t (95.2 % of the test images).", 500 / 525),
        (None, "guessing.", 0.52),
    ],
)
def test_no_file_is_advised_that_is_no_better_than_a_guess(counts, named, guess):
    uneven = {**MANIFEST, "class_names": ["c_t", "dog"]}
    uneven |= {"examples": {"validation": 210, "test": 525}}
    uneven |= {"class_counts": {"test": counts}} if counts else {}
    files = [entry("small", "float32", guess, 1.0, 1.0), entry("small", "int8", guess, 0.3, 0.3)]
    line = deployment_page.advice({**uneven, "artifacts": files})
    assert line.startswith(
        "No file is recommended: tflite/small-int8.tflite, the fastest of the most accurate files,"
    )
    assert line.endswith(f"a top-1 of {100 * guess:.2f} %, not clearly better than {named}")
    files[1] |= {"top1": 0.985}
    line = deployment_page.advice({**uneven, "artifacts": files})
    assert line.startswith("Take tflite/small-int8")


def test_of_few_validation_images_the_advice_says_how_many_it_needs():
    line = deployment_page.advice({**MANIFEST, "examples": {"validation": 179, "test": 2000}})
    assert line == (
        "No file is recommended: 179 validation images are too few to compare files that differ"
        " little; at least 200 are needed. Where a data set has no validation images of its own,"
        " a larger --validation_fraction gives more."
    )


def test_without_tflite_files_there_is_no_advice_and_no_picture():
    only = {**MANIFEST, "artifacts": FILES[4:]}
    assert deployment_page.advice(only) == ""
    assert deployment_page.draw(only) == {}


@pytest.mark.parametrize(
    ("costs", "gains", "front"),
    [
        ([1.0, 2.0, 3.0], [10, 30, 20], [0, 1]),
        ([3.0, 1.0, 2.0], [5, 5, 5], [1]),
        ([1.0, 1.0], [4, 6], [1]),
        ([], [], []),
    ],
)
def test_the_front_holds_what_nothing_beats_in_both(costs, gains, front):
    assert deployment_page.front(costs, gains) == front


def test_the_table_lists_networks_together_tflite_first():
    lines = deployment_page.table(MANIFEST).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        *("tflite/big-float32.tflite", "tflite/big-int8.tflite", "savedmodel/big/1"),
        *("tflite/small-float32.tflite", "tflite/small-int8.tflite"),
    ]
    assert lines[2].split()[1:] == [
        "1.10",
        "0.99",
        "95.60",
        "–",
        "99.00",
        "1.0e-02",
        "1.80",
        "2.00",
    ]


def test_zeros_and_values_are_shown_where_a_file_was_compressed():
    assert "zeros" not in deployment_page.table(MANIFEST)
    pruned = {**FILES[1], "taught": True, "sparsity": 0.5, "unique_weights": 16}
    lines = deployment_page.table({**MANIFEST, "artifacts": [pruned, FILES[4]]}).splitlines()
    assert lines[0].endswith("zeros %  values")
    assert [line.split()[-2:] for line in lines[1:]] == [["–", "–"], ["50", "16"]]


def test_the_report_tells_what_could_not_be_made():
    failed = [{"file": "tflite/x-int8.tflite", "reason": "cannot | be"}]
    text = "\n".join(deployment_page.section({**MANIFEST, "failed": failed}, {}))
    assert "These files could not be made:" in text
    assert "cannot &#124; be" in text
    assert deployment_page.section({**MANIFEST, "artifacts": []}, {}) == []


def test_a_file_that_failed_does_not_press_the_others_into_a_line():
    files = [
        entry("small", "float32", 0.99, 4.0, 2.0),
        entry("small", "int8", 0.98, 1.0, 1.0),
        entry("small", "pcqat", 0.1, 1.0, 1.0),
    ]
    low, high = deployment_page.chart(files).axes[0].get_ylim()
    assert low == pytest.approx(99 - deployment_page.SHOWN)
    assert high < 100
    low, _ = deployment_page.chart(files[:2]).axes[0].get_ylim()
    assert low > 97


def test_the_picture_shows_every_network_and_variant():
    svg = deployment_page.draw(MANIFEST)["deployment.svg"].decode()
    for name in ("small", "big", "float32", "int8", "top-1 on test (%)"):
        assert name in svg


def test_without_a_latency_no_file_is_advised_and_the_reason_is_told():
    unknown = [{k: v for k, v in e.items() if k != "latency_ms"} for e in MANIFEST["artifacts"]]
    manifest = {**MANIFEST, "artifacts": unknown}
    assert (
        deployment_page.advice(manifest)
        == "No file is recommended, because no latency could be measured."
    )
    assert deployment_page.draw(manifest) == {}
    assert deployment_page.table(manifest).splitlines()[1].split()[-2:] == ["–", "–"]
