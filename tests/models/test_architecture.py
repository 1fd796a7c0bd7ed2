"""Every decoder family: training and scoring equal eager attention on each row alone; other families are refused."""

import csv

import families
import finetune_gemma_from_csv as finetune
import predict
import pytest
import torch
from linklab.cli import UserError
from linklab.inference import choice_scorer
from linklab.models import architecture, chat, load
from linklab.training import answer_loss
from linklab.training.adapters import find_targets
from transformers import AutoModelForCausalLM

NAMES = list(families.FAMILIES)
TEXTS = ["animal: bee", "animal: an elephant with a name much longer than the window\ncode: 512", "x"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    return {name: families.save_family(name, folder / name) for name in NAMES}


def eager_log_probabilities(model, ids):
    """Log-probabilities of every next token of one row, by plain transformers with eager attention."""
    with torch.inference_mode():
        return torch.log_softmax(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double(), dim=-1)


@pytest.mark.parametrize("name", NAMES)
def test_the_training_loss_is_that_of_eager_attention_row_by_row(name, saved):
    eager = AutoModelForCausalLM.from_pretrained(saved[name], attn_implementation="eager", dtype=torch.float32).eval()
    tokenizer = load.load_tokenizer(str(saved[name]))
    turns, losses = [], []
    for text, answer in zip(TEXTS, ["insect", "mammal", "fish"], strict=True):
        prompt, tokens = chat.encode_prompt(tokenizer, text), chat.encode_answer(tokenizer, answer)
        turns.append((prompt, tokens))
        scores = eager_log_probabilities(eager, prompt + tokens)
        losses += [-scores[len(prompt) - 1 + i, token].item() for i, token in enumerate(tokens)]
    assert all(len(prompt) > 0 for prompt, _ in turns) and len(turns[1][0]) > 2 * families.WINDOW
    # The last two are questions of one row; their prompts begin alike.
    items = [answer_loss.join_questions(turns[:1]), answer_loss.join_questions(turns[1:])]
    model = load.load_model(str(saved[name])).eval()
    answer_loss.use_answer_only_loss(model)
    batch = answer_loss.AnswerCollator(tokenizer.pad_token_id)(items)
    assert model(**batch).loss.item() == pytest.approx(sum(losses) / len(losses), abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_score_of_every_choice_is_that_of_eager_attention_on_it_alone(name, saved):
    eager = AutoModelForCausalLM.from_pretrained(saved[name], attn_implementation="eager", dtype=torch.float32).eval()
    tokenizer = load.load_tokenizer(str(saved[name]))
    scorer = choice_scorer.ChoiceScorer(load.load_model(str(saved[name])), tokenizer)
    prompts = [chat.encode_prompt(tokenizer, text) for text in TEXTS]
    choices = [[chat.encode_answer(tokenizer, text) for text in ("fish", "fishes", "mammal")] for _ in TEXTS]
    cache = choice_scorer.PromptCache(len(prompts))
    scorer.read(cache, prompts)
    found = scorer.score_choices(cache, [[] for _ in TEXTS], choices)
    for prompt, answers, scores in zip(prompts, choices, found, strict=True):
        for answer, score in zip(answers, scores, strict=True):
            logs = eager_log_probabilities(eager, prompt + answer)
            brute = sum(logs[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))
            assert score == pytest.approx(brute, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_ends_with_the_token_that_the_template_ends_a_turn_with(name, saved):
    tokenizer = load.load_tokenizer(str(saved[name]))
    end, eos = (tokenizer.convert_tokens_to_ids(families.FAMILIES[name][i]) for i in (6, 4))
    assert chat.encode_answer(tokenizer, "fish")[-1] == end
    assert chat.stop_tokens(tokenizer) == sorted({end, eos})


def test_adapters_go_on_the_language_layers_of_a_model_that_reads_images(saved):
    from linklab.training import options, training

    words = ["--csv", "a", "--out-dir", "b", "--base-model", str(saved["gemma3_with_images"])]
    settings = options.read_settings(finetune.build_parser().parse_args(words)).prepare(precision="fp32", steps=1)
    trained = [name for name, p in training.build_model(settings).named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2 and all("language_model" in name for name in trained)


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A CSV with one-letter answers that a tiny model writes, and ends, after 20 steps."""
    path = tmp_path_factory.mktemp("letters") / "letters.csv"
    lines = [f"{'ab'[i % 2] * 3}{i % 7},{'ab'[i % 2]}" for i in range(200)]
    path.write_text("\n".join(["word,letter", *lines]) + "\n")
    return path


ALWAYS = [("llama", "full"), ("phi3", "lora")]  # the other pairs with -m slow
PAIRS = [(name, mode) for name in NAMES for mode in ("full", "lora")]


@pytest.mark.parametrize(
    ("name", "mode"), [pytest.param(*pair, marks=[] if pair in ALWAYS else pytest.mark.slow) for pair in PAIRS]
)
def test_a_family_trains_and_its_model_answers_and_stops_in_plain_transformers(
    name, mode, saved, letters, tmp_path, start_process
):
    out = tmp_path / "out"
    words = ["--csv", str(letters), "--target-field", "letter", "--base-model", str(saved[name]), "--mode", mode]
    words += ["--max-steps", "20", "--save-steps", "20", "--validation-rows", "8", "--learning-rate", "1e-2", "--merge"]
    words += ["--warmup-fraction", "0", "--report-to", "none", "--fp32", "--lora-rank", "32"]
    assert finetune.main([*words, "--out-dir", str(out)]) == 0
    prompts = [f"word: {word}" for word in ("aaa1", "bbb2", "aaa5", "bbb6")]
    (tmp_path / "new.csv").write_text("word\naaa1\nbbb2\naaa5\nbbb6\n")
    part = out / ("merged" if mode == "lora" else "model")
    for folder in {out / "model", part}:
        process, log = start_process("plain_reload", "reload_and_write", str(folder), prompts, str(tmp_path / "w"))
        process.join(120)
        assert process.exitcode == 0, log.read_text()[-2000:]
        written = torch.load(tmp_path / "w")
        end = chat.end_token(load.load_tokenizer(str(folder)))
        assert all(tokens[-1] == end and len(tokens) < 40 for tokens, _ in written), "it did not stop by itself"
        answers = tmp_path / f"{folder.name}.csv"
        assert predict.main(["--model", str(folder), "--csv", str(tmp_path / "new.csv"), "--out", str(answers)]) == 0
        lines = list(csv.DictReader(answers.open()))
        assert [line["letter"] for line in lines] == [text for _, text in written]


def save_stranger(folder, config, template):
    """Write an untrained model of an untested family, with or without a chat template; returns its name."""
    import transformers

    tokenizer = families.build_tokenizer(families.CHATML, None, "<|im_end|>", ["<|im_start|>"])
    tokenizer.chat_template = template
    model = transformers.AutoModelForCausalLM.from_config(config(vocab_size=len(tokenizer)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def tiny_config(kind, **more):
    import transformers

    return lambda **sizes: getattr(transformers, kind)(**sizes, **more)


GPT2 = tiny_config("GPT2Config", n_embd=32, n_layer=1, n_head=2, n_positions=128)
NEOX = tiny_config("GPTNeoXConfig", **families.SHAPE)
GRANITE = tiny_config("GraniteConfig", **families.SHAPE, logits_scaling=8.0)
MAMBA = tiny_config("MambaConfig", hidden_size=32, num_hidden_layers=1)


@pytest.mark.parametrize("config", [GPT2, NEOX], ids=["gpt2", "gpt_neox"])
def test_a_model_without_chat_template_is_one_line(config, tmp_path, letters, capfd):
    name = save_stranger(tmp_path / "stranger", config, None)
    words = ["--csv", str(letters), "--target-field", "letter", "--base-model", name, "--out-dir", str(tmp_path / "x")]
    assert finetune.main(words) == 2
    said = capfd.readouterr().err
    assert "no chat template" in said and "Traceback" not in said


@pytest.mark.parametrize(("config", "said"), [
    (GRANITE, "models of type 'granite' are not supported (rows side by side change each other's logits by"),
    (MAMBA, "cannot load this model (MambaForCausalLM does not support an attention implementation"),
], ids=["granite", "mamba"])  # fmt: skip
def test_a_decoder_with_wrong_results_is_refused_by_name(config, said, tmp_path):
    name = save_stranger(tmp_path / "stranger", config, families.CHATML)
    with pytest.raises(UserError) as raised:
        load.load_model(name)
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("config", [GPT2, NEOX], ids=["gpt2", "gpt_neox"])
def test_an_untested_decoder_that_passes_the_check_scores_as_it_does_alone(config, tmp_path):
    name = save_stranger(tmp_path / "stranger", config, families.CHATML)
    assert architecture._largest_error(load.load_model(name).eval()) < 1e-4


@pytest.mark.parametrize(("asked", "said"), [
    ("lm_head", "'lm_head' shares its weights with the input embedding"),
    ("q_proj,v_porj", "no linear layer is called 'v_porj'; there are: down_proj, gate_proj, k_proj, lm_head, o_proj"),
    ("q_proj,,v_proj", "no linear layer is called ''"),
    ("embed_tokens", "no linear layer is called 'embed_tokens'"),
    ("vision_tower", "no linear layer is called 'vision_tower'"),
])  # fmt: skip
def test_a_target_that_is_not_a_layer_or_is_the_tied_head_is_refused(asked, said, saved):
    with pytest.raises(UserError) as raised:
        find_targets(load.load_model(str(saved["gemma3_with_images"])), asked)
    assert said in str(raised.value)


def test_spaces_around_a_target_are_ignored(saved):
    model = load.load_model(str(saved["llama"]))
    assert find_targets(model, "q_proj, v_proj ") == ["q_proj", "v_proj"]
    assert find_targets(model, "lm_head") == ["lm_head"]  # not tied here
