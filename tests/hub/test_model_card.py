import json
import re
from pathlib import Path

import pytest
from finished_run import results
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from real_data import DATA_DIR

from dedn_hf.data.load import dataset_card
from dedn_hf.data.proposed_split import PROPOSED_SPLIT_NAME
from dedn_hf.data.synthetic_birds import ATTRIBUTE_NAMES
from dedn_hf.data.synthetic_birds import load as load_synthetic_birds
from dedn_hf.hub import render_model_card, save_model_card, validate_model_card
from dedn_hf.hub.model_card import TEMPLATE
from dedn_hf.recipes import recipe_names

ROOT = Path(__file__).parents[2]
MODEL_CARDS = ROOT / "model_cards"


def test_the_template_is_a_file_of_the_package_that_model_cards_links_to():
    assert TEMPLATE.is_relative_to(ROOT / "src" / "dedn_hf")
    assert (MODEL_CARDS / "template.md").resolve() == TEMPLATE.resolve()


# What a card says


def test_measured_figures_are_the_model_index():
    card = ModelCard(str(render_model_card(results(), "cub", repo_id="org/dedn-birds")))
    (entry,) = card.data.to_dict()["model-index"]
    assert entry["name"] == "dedn-birds"
    parts = {result["dataset"]["split"]: result for result in entry["results"]}
    assert {name: {metric["name"]: metric["value"] for metric in part["metrics"]} for name, part in parts.items()} == {
        "validation": {"T1": 41.23, "U": 31.0, "S": 52.0, "H": 38.84},
        "test": {"T1": 40.46, "U": 30.0, "S": 50.0, "H": 37.5, "AUSUC": 22.25},
    }
    assert parts["test"]["task"]["type"] == "zero-shot-image-classification"
    assert parts["test"]["dataset"]["args"] == {"split_sha256": "0123abcd", "protocol": "validated", "seeds": [0]}
    text = card.text
    assert "| validation | 41.2 | 31.0 | 52.0 | 38.8 | – |" in text
    assert "| test | 40.5 | 30.0 | 50.0 | 37.5 | 22.2 |" in text
    assert "0123abcd" in text and "calibration = 1.23" in text and "| learning_rate | 0.0001 |" in text
    assert "One run, seed 0" in text and "test set was read once" in text
    assert "python scripts/train.py --dataset cub" in text and "torch 2.13.0" in text
    assert "ot measured" not in text and "chosen on the test set" not in text


def test_a_test_set_that_was_not_read():
    unread = results()
    del unread["test"]
    card = render_model_card(unread, "cub")
    assert {result.dataset_split for result in card.data.eval_results} == {"validation"}
    assert "The test set was **not measured**." in card.text and "was read once" not in card.text


def test_figures_that_could_not_be_had_are_no_figures():
    partly = results(test={"T1": None, "U": 30.0, "S": 50.0, "H": 37.5, "AUSUC": None}, std={"test": {"H": None}})
    card = render_model_card(partly, "cub")
    assert {result.metric_name for result in card.data.eval_results if result.dataset_split == "test"} == set("USH")
    assert "| test | – | 30.0 | 50.0 | 37.5 | – |" in card.text
    nothing = results(validation=None, test=None)
    assert not {"model-index", "model_name"} & set(render_model_card(nothing, "cub").data.to_dict())


def test_figures_of_the_reference_protocol_say_that_they_are_chosen_on_the_test_set():
    reference = results(protocol="reference", chosen={"epochs": 3, "on": "the test set, as released"})
    del reference["validation"]
    card = render_model_card(reference, "cub")
    assert {result.metric_name.partition(", ")[2] for result in card.data.eval_results} == {"chosen on the test set"}
    assert card.text.count("hosen on the test set") >= 2 and "too good" in card.text


def test_several_seeds_have_a_spread():
    several = results(seeds=[3, 4, 5], std={"test": {"T1": 0.512, "H": 1.249}, "validation": {"H": 2.0}})
    del several["chosen"]
    card = render_model_card(several, "cub")
    assert "40.5 ± 0.5" in card.text and "37.5 ± 1.2" in card.text and "38.8 ± 2.0" in card.text
    assert "Seeds 3, 4, 5" in card.text and "The weights are those of seed 3" in card.text
    args = {(result.dataset_split, result.metric_name): result.metric_args for result in card.data.eval_results}
    assert args["test", "H"] == {"std": 1.25} and args["test", "U"] is None


def test_a_setting_that_is_a_pattern_stays_one_cell():
    """Markdown would end the cell at the bar, and take the backslashes for its own."""
    pattern = r"(blocks\.[89]|top_.*)"
    card = render_model_card(results(settings={"trained_backbone_parameters": pattern, "image_size": 448}), "cub")
    assert "\n| trained_backbone_parameters | `(blocks\\.[89]\\|top_.*)` |\n| image_size | 448 |\n" in card.text


def test_further_sections_stand_before_the_limits():
    card = render_model_card(results(), "cub", sections="## More\n\nMeasured, too.")
    before, after = card.text.split("\n\n## More\n\nMeasured, too.\n\n## Limits")
    assert "## Results" in before and "## Licence" in after
    assert before + "\n\n## Limits" + after == render_model_card(results(), "cub").text


@pytest.mark.parametrize("dataset", recipe_names())
def test_every_card_is_whole(dataset):
    for given in (None, results(dataset=dataset)):
        card = render_model_card(given, dataset)
        data, text = card.data.to_dict(), card.text
        assert data["library_name"] == "transformers" and data["pipeline_tag"] == "zero-shot-image-classification"
        expected = {"zero-shot-image-classification", "generalized-zero-shot-learning", "dedn", "attributes"}
        assert expected <= set(data["tags"])
        assert ("model-index" in data) == (given is not None)
        for heading in ("How to use it", "Data", "Training and protocol", "Results", "Licence", "Citation"):
            assert f"\n## {heading}\n" in text
        assert "must not be used for" in text and "2404.16348" in text and "revision=revision" in text
        assert not re.search(r"the paper reports|published result", text, re.IGNORECASE)
        assert not re.search(r"\bNone\b(?! yet)|Undefined|\n\n\n", text)
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            compile(code, "card", "exec")
    assert data["license"] == {"cub": "other", "synthetic_birds": "apache-2.0"}.get(dataset, "unknown")


def test_cub_cards_bind_to_the_terms_of_the_data():
    card = render_model_card(results(), "cub", base_model="google/mobilenet_v2_1.0_224")
    data = card.data.to_dict()
    assert data["license_name"] == "cub-200-2011-terms" and data["license_link"].startswith("https://")
    assert "non-commercial research only" in card.text
    assert data["base_model"] == "google/mobilenet_v2_1.0_224" and "Apache-2.0" in card.text
    assert "base_model" not in render_model_card(results(), "cub").data.to_dict()


def test_the_card_says_whether_the_backbone_was_trained_along():
    tuned = results()
    tuned["settings"]["freeze_backbone"] = False
    for given, text in ((results(), "v2_1.0_224), kept frozen."), (tuned, "and was trained along with the experts.")):
        card = render_model_card(given, "cub", base_model="google/mobilenet_v2_1.0_224").text
        assert text in card and card.count("kept frozen") == (given is not tuned)


@pytest.mark.parametrize("backbone, base_model", [("org/resnet", "org/resnet"), ("resnet", None)])
def test_the_backbone_of_the_results_is_the_base_model_if_it_is_an_id(backbone, base_model):
    card = render_model_card(results(settings={"backbone": backbone}), "cub")
    assert card.data.base_model == base_model and ("(https://huggingface.co/org/resnet)" in card.text) == bool(
        base_model
    )


def test_facts_are_the_data_sets_own():
    birds = load_synthetic_birds()
    text = render_model_card(None, "synthetic_birds").text
    assert birds.split_name in text and birds.split_sha256 in text
    assert (
        f"{len(birds.class_names)} invented species" in text and f"by {len(birds.attribute_names)} attributes" in text
    )
    assert f"{len(birds.seen_class_ids)} classes are seen and {len(birds.unseen_class_ids)} are unseen" in text
    sizes = [len(birds.splits[name]) for name in ("trainval", "test_seen", "test_unseen")]
    assert "{:,} images to train on, {} and {} to test".format(*sizes) in text
    described = json.loads(re.search(r'\{"Garden Lantern": (\[.*?\])\}', text)[1])
    assert described and set(described) <= set(ATTRIBUTE_NAMES)
    for name in ("cub", "sun", "awa2"):
        text = render_model_card(None, name).text
        assert dataset_card(name).split_sha256 in text and PROPOSED_SPLIT_NAME in text


@pytest.mark.real_data
@pytest.mark.parametrize(
    "dataset, file",
    [
        ("cub", "CUB_200_2011/attributes/attributes.txt"),
        ("sun", "attribute_vectors/sun_attributes.txt"),
        ("awa2", "attribute_vectors/awa2_predicates.txt"),
    ],
)
def test_examples_use_attributes_that_there_are(dataset, file):
    if not (DATA_DIR / file).is_file():
        pytest.skip(f"{DATA_DIR / file} is not there; set DEDN_DATA_DIR")
    text = render_model_card(None, dataset).text
    names = {re.sub(r"^\d+\s+", "", line).strip() for line in (DATA_DIR / file).read_text().splitlines()}
    described = json.loads(re.search(r"candidate_labels=\{.*?: (\[.*?\])\}", text)[1])
    assert described and set(described) <= names


def test_a_data_set_of_another_name_is_somebodys_own():
    card = render_model_card(results(dataset="flowers"), "flowers")
    assert "trained on own images" in card.text and card.data.license == "unknown"
    assert {result.dataset_name for result in card.data.eval_results} == {"Own images"}


@pytest.mark.parametrize("name", ["my birds", "Vögel", "a/b", "x" * 200, "日本", 'q"uote: {x}', "flo.v2"])
def test_a_name_of_any_kind_makes_a_card(name):
    for figures in (results(dataset=name), None):
        card = render_model_card(figures, name)
        assert "trained on own images" in card.text
        (repo_id,) = re.findall(r'repo_id = "(.*)"', card.text)
        validate_repo_id(repo_id)


def test_a_data_set_of_the_proposed_split_release_has_its_own_name():
    card = render_model_card(results(dataset="apy"), "xlsa17/APY")
    assert "trained on APY" in card.text and "@article{xian2019zero" in card.text and "/dedn-apy" in card.text
    assert {result.dataset_type for result in card.data.eval_results} == {"apy"}
    card = render_model_card(None, "xlsa17/APY")
    assert "--dataset xlsa17/APY" in card.text and "None" not in card.text.replace("None yet", "")


def test_results_of_another_data_set():
    with pytest.raises(ValueError, match="results are of 'cub', not of 'sun'"):
        render_model_card(results(), "sun")


@pytest.mark.parametrize(
    "change, message",
    [
        (("license: other\n", ""), "have no license"),
        (("license_link: ", "license_links: "), "have no license_link"),
        (("library_name: transformers\n", ""), "have no library_name"),
        (("value: 37.5", "value: high"), "H is 'high' in the model card, which is no number"),
        (("# dedn-cub", "# {{ name }}"), "not finished"),
    ],
)
def test_unfinished_cards_are_found(change, message):
    content = str(render_model_card(results(), "cub"))
    assert change[0] in content
    with pytest.raises(ValueError, match=message):
        validate_model_card(ModelCard(content.replace(*change)))


def test_a_saved_card_is_whole(tmp_path):
    card = render_model_card(results(), "cub")
    save_model_card(card, tmp_path / "deep" / "README.md")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["README.md"]
    assert str(ModelCard.load(tmp_path / "deep" / "README.md")).rstrip() == str(card).rstrip()
