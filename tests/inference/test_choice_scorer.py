"""Scoring answers: trie scores equal those of every answer alone, and writing equals plain greedy writing."""

import dataclasses
import json
import math
import re

import pytest
import torch
from linklab.inference import choice_scorer, number_distributions, row_answers
from linklab.models import tiny, tries
from linklab.models.chat import encode_answer, encode_prompt
from linklab.tables.schema import Column
from linklab.tasks.examples import read_examples
from linklab.tasks.task import make_task
from linklab.training import answer_loss
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

KINDS = ("a", "ab", "abc", "b", "cab")  # some are prefixes of others: only the next token tells them apart
CSV = "word,kind,size,count\n" + "".join(
    f"w{i}{'-long' * (i % 4)},{KINDS[i % 5]},{('xs', 'xl')[i % 2]},{i * 7}\n" for i in range(30)
)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "words.csv"
    path.write_text(CSV)
    return make_task(path, ["kind", "size", "count"])


@pytest.fixture(scope="module")
def examples(task, tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "words.csv"
    path.write_text(CSV)
    found = read_examples(path, task)
    assert found[0].choices == {"kind": sorted(KINDS), "size": ["xl", "xs"]}
    return found


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.build_tokenizer()


@pytest.fixture(scope="module")
def taught(tokenizer, examples):
    """A tiny model trained on a few answers: it has clear preferences, and ends its answers."""
    model = tiny.build_model(tokenizer)
    answer_loss.use_answer_only_loss(model)
    rows = answer_loss.EncodedExamples(examples[:10], tokenizer, 512)
    batch = answer_loss.AnswerCollator(0)(list(rows.items))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def with_window(taught, tokenizer, window):
    """Return the taught model with another sliding window."""
    model = tiny.build_model(tokenizer, sliding_window=window)
    model.load_state_dict(taught.state_dict())
    return model.eval()


def log_probability(model, head, tokens):
    """The definition: the model is run on this one answer, without padding, and its tokens' log-probabilities added."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([head + tokens])).logits[0].double()
    scores = torch.log_softmax(logits, dim=-1)
    return sum(scores[len(head) - 1 + i, token].item() for i, token in enumerate(tokens))


def brute_force(model, head, answers):
    """Score every answer alone."""
    return [log_probability(model, head, answer) for answer in answers]


def written_by_hand(model, head, answers):
    """The definition: only legal tokens are allowed, so each step's softmax is over them; one forward pass per step."""
    found = []
    for answer in answers:
        log_p = 0.0
        for i, token in enumerate(answer):
            legal = sorted({other[i] for other in answers if other[:i] == answer[:i] and len(other) > i})
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([head + answer[:i]])).logits[0, -1].double()
            log_p += torch.log_softmax(logits[legal], dim=-1)[legal.index(token)].item()
        found.append(log_p)
    return found


def normalised(names, log_p):
    normal = math.log(sum(math.exp(value) for value in log_p))
    return {name: value - normal for name, value in zip(names, log_p, strict=True)}


CASES = [
    ("channels", "", ["5180", "5200", "5775", "5805"]),
    ("one choice begins another", "", ["5", "51", "518", "5180", "6"]),
    ("after another target", "ab", [" xs", " xl", " x"]),
    ("after two others", "ab xs", [" 12", " 120", " 7"]),
    ("a single choice", "", ["5180"]),
]


@pytest.mark.parametrize("window", [512, 16])
@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("name, start, choices", CASES, ids=[name for name, *_ in CASES])
def test_trie_scores_are_those_of_asking_for_each_choice_alone(taught, tokenizer, name, start, choices, end, window):
    """One batch has prompts of different lengths; most are longer than a window of 16 tokens."""
    model = with_window(taught, tokenizer, window)
    prompts = ["w", "word: w3", "a much longer prompt that goes on and on: 1 2 3 4 5 6 7 8 9", "word: w1-long-long"]
    scorer = choice_scorer.ChoiceScorer(model, tokenizer)
    heads = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    assert sum(len(head) > 16 for head in heads) >= 3
    answers = [scorer.tokens(text) + [scorer.end] * end for text in choices]
    cache = choice_scorer.PromptCache(4)
    scorer.read(cache, heads)
    found = scorer.score_choices(cache, [scorer.tokens(start)] * 4, [answers] * 4)
    for head, scores in zip(heads, found, strict=True):
        assert scores == pytest.approx(brute_force(model, head + scorer.tokens(start), answers), abs=1e-4)


def test_each_row_has_its_own_answer_start_and_choices(taught, tokenizer):
    scorer = choice_scorer.ChoiceScorer(taught, tokenizer)
    heads = [encode_prompt(tokenizer, f"word: w{i}{'-long' * (i % 3)}") for i in range(6)]
    starts = [scorer.tokens("abcab"[:i]) for i in range(6)]
    answers = [[scorer.tokens(str(n)) for n in range(40 + i, 44 + 3 * i)] for i in range(6)]
    cache = choice_scorer.PromptCache(6)
    scorer.read(cache, heads)
    first = scorer.score_choices(cache, starts, answers)
    assert first == scorer.score_choices(cache, starts, answers)  # scoring does not change the cache
    for i in range(6):
        assert first[i] == pytest.approx(brute_force(taught, heads[i] + starts[i], answers[i]), abs=1e-4)


def test_many_choices_are_scored_in_parts_of_bounded_size_with_the_same_result(taught, tokenizer, monkeypatch):
    scorer = choice_scorer.ChoiceScorer(taught, tokenizer)
    heads = [encode_prompt(tokenizer, f"word: w{i}") for i in range(3)]
    texts = [f"{n * 7919 % 1000:03d} of many" for n in range(60)]
    answers = [[scorer.tokens(text) for text in row] for row in (texts, texts[:1], texts[5:30])]
    cache = choice_scorer.PromptCache(3)
    scorer.read(cache, heads)
    whole = scorer.score_choices(cache, [[]] * 3, answers)
    sizes, forward = [], scorer.forward

    def counted(cache, tries, *, keep):
        longest = max(len(trie.tokens) for trie in tries)
        sizes.append(len(tries) * longest * (longest + cache.valid.shape[1]))
        return forward(cache, tries, keep=keep)

    monkeypatch.setattr(scorer, "forward", counted)
    monkeypatch.setattr(choice_scorer, "ATTENTION_CELLS", 20_000)
    in_parts = scorer.score_choices(cache, [[]] * 3, answers)
    assert len(sizes) > 4 and max(sizes) <= 20_000
    for row, expected in zip(in_parts, whole, strict=True):
        assert row == pytest.approx(expected, abs=1e-5)


def test_a_batch_is_bounded_by_its_trie_tokens_too(taught, tokenizer, examples, task, monkeypatch):
    scorer = choice_scorer.ChoiceScorer(taught, tokenizer, batch_tokens=400)
    many = [dataclasses.replace(e, choices=e.choices | {"size": [f"{n:03d}" for n in range(50)]}) for e in examples]
    batches, read = [], scorer.read
    monkeypatch.setattr(scorer, "read", lambda cache, tokens: batches.append(len(tokens)) or read(cache, tokens))
    row_answers.answer_exactly(scorer, many, dataclasses.replace(task, targets=task.targets[1:2]))
    assert scorer.count_trie_tokens(many[0]) == 1 + 5 + 50  # the digits 0, 0 to 4, and the last of each
    assert sum(batches) == len(many) and max(batches) <= 400 // 56


def test_rows_answer_the_same_alone_and_in_a_batch(taught, tokenizer, examples, task):
    reports = []
    alone = row_answers.answer_exactly(
        choice_scorer.ChoiceScorer(taught, tokenizer, batch_tokens=1), examples[:5], task, progress=reports.append
    )
    together = row_answers.answer_exactly(choice_scorer.ChoiceScorer(taught, tokenizer), examples[:5], task)
    assert reports == list(range(1, 6))
    for one, other in zip(alone, together, strict=True):
        assert (one["id"], one["raw_text"]) == (other["id"], other["raw_text"])
        for name in ("kind", "size"):
            assert dict(one["choices"][name]) == pytest.approx(dict(other["choices"][name]), abs=1e-4)


def test_the_trie_holds_each_distinct_prefix_once():
    trie = tries.build_trie([[5, 1], [5, 7, 2], [6]])
    assert (trie.tokens, trie.parents, trie.depths) == ([5, 1, 7, 2, 6], [-1, 0, 0, 2, -1], [1, 2, 2, 3, 1])
    assert trie.leaves == [[0, 1], [0, 2, 3], [4]]


@pytest.mark.parametrize("answers, expected", [
    ([[1, 2], [1, 3]], False), ([[1], [1, 3]], True), ([[1, 2, 3], [4], [1, 2]], True), ([[1]], False),
    ([[2, 1], [1]], False),
])  # fmt: skip
def test_a_next_token_is_needed_only_if_one_answer_is_a_prefix_of_another(answers, expected):
    assert tries.needs_end(answers) is expected


def write_by_hand(model, tokenizer, head, n):
    """Greedy writing, one token per forward pass, without cache, padding or generate()."""
    end = {tokenizer.convert_tokens_to_ids("<end_of_turn>"), tokenizer.eos_token_id}
    tokens = []
    while len(tokens) < n:
        with torch.inference_mode():
            token = int(model(input_ids=torch.tensor([head + tokens])).logits[0, -1].argmax())
        if token in end:
            break
        tokens.append(token)
    return tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("window", [512, 16])
def test_free_writing_is_greedy_writing_row_by_row(taught, tokenizer, examples, task, window):
    model = with_window(taught, tokenizer, window)
    rows = examples[:8]
    given = row_answers.answer_freely(choice_scorer.ChoiceScorer(model, tokenizer), rows, task, max_new_tokens=12)
    expected = [write_by_hand(model, tokenizer, encode_prompt(tokenizer, row.prompt), 12) for row in rows]
    assert [answer["raw_text"] for answer in given] == expected
    assert len({len(row.prompt) for row in rows}) > 1  # otherwise padding is not tested
    if window == 512:
        assert any(len(text) < 12 for text in expected)  # some stop by themselves
    for row, answer in zip(rows, given, strict=True):
        assert (answer["id"], answer["choices"]) == (row.id, {})
        read, error = task.read_answer(answer["raw_text"], row.choices)
        assert answer["error"] == error
        assert answer["answer"] == (read if any(value is not None for value in read.values()) else None)


def longest(task):
    return max(len(row.split(",")[CSV.split("\n")[0].split(",").index("count")]) for row in CSV.split()[1:])


def number_by_hand(model, tokenizer, head, before, after, longest):
    """The integer of at most `longest` characters made of the most probable legal token at each step, by hand."""
    stop = {tokenizer.convert_tokens_to_ids("<end_of_turn>"), tokenizer.eos_token_id}
    stop |= set(tokenizer(after, add_special_tokens=False)["input_ids"][:1]) if after else set()
    head = head + (tokenizer(before, add_special_tokens=False)["input_ids"] if before else [])
    text = ""
    while True:
        with torch.inference_mode():
            p = torch.softmax(model(input_ids=torch.tensor([head])).logits[0, -1].double(), dim=-1)
        tokens = {character: tokenizer.convert_tokens_to_ids(character) for character in "0123456789-"}
        legal = [
            c
            for c in tokens
            if re.fullmatch("-|0|-?[1-9][0-9]*", text + c) and len(text + c + "1" * (c == "-")) <= longest
        ]
        best = max(legal, key=lambda c: p[tokens[c]].item(), default=None)
        ends = sum(p[token].item() for token in stop) if text not in ("", "-") else 0.0
        if best is None or ends >= p[tokens[best]].item():
            return text
        text, head = text + best, [*head, tokens[best]]


@pytest.mark.parametrize(("rank_by", "by_hand"), [("summed", brute_force), ("written", written_by_hand)])
@pytest.mark.parametrize("window", [512, 16])
def test_exact_answers_take_the_best_legal_choice_of_each_target_in_turn(
    taught, tokenizer, examples, task, window, rank_by, by_hand
):
    """Each class is scored after the targets before it, with the next token if one class is a prefix of another;
    a number is made of the most probable legal digits."""
    model = with_window(taught, tokenizer, window)
    rows = examples[5:15]  # the model was trained on half of them
    separator = task.form.separator
    scorer = choice_scorer.ChoiceScorer(model, tokenizer)
    follow = scorer.tokens(separator)
    answers = row_answers.answer_exactly(scorer, rows, task, numbers="greedy", rank_by=rank_by)
    for row, given in zip(rows, answers, strict=True):
        head = encode_prompt(tokenizer, row.prompt)
        kinds = [scorer.tokens(text) + follow for text in row.choices["kind"]]
        expected = normalised(row.choices["kind"], by_hand(model, head, kinds))
        kind = max(expected, key=expected.get)
        head += scorer.tokens(kind)
        sizes = [scorer.tokens(separator + text) for text in row.choices["size"]]
        expected_sizes = normalised(row.choices["size"], by_hand(model, head, sizes))
        size = max(expected_sizes, key=expected_sizes.get)
        for name, values in (("kind", expected), ("size", expected_sizes)):
            ranking = given["choices"][name]
            assert dict(ranking) == pytest.approx(values, abs=1e-4)
            assert sum(math.exp(score) for _, score in ranking) == pytest.approx(1, abs=1e-6)
            assert [score for _, score in ranking] == sorted((score for _, score in ranking), reverse=True)
        head += scorer.tokens(separator + size)
        number = number_by_hand(model, tokenizer, head, separator, "", longest(task))
        assert given["raw_text"] == separator.join([kind, size, number])
        # The number does not change the classes before it.
        assert (given["answer"]["kind"], given["answer"]["size"]) == (kind, size)
        assert given["answer"]["count"] == task.read_answer(given["raw_text"], row.choices)[0]["count"]


def follow(model, head, start, tokens):
    """The definition: log of the probability that what follows `start` is any of `tokens`."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([head + start])).logits[0, -1].double()
    return torch.logsumexp(torch.log_softmax(logits, dim=-1)[sorted(tokens)], dim=-1).item()


def with_words(tokenizer):
    """Return the tiny tokenizer with ` x` in one token, like ` red` in Gemma's: a space alone is then never written."""
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    core["model"]["vocab"]["\u0120x"] = len(tokenizer)
    core["model"]["merges"].append(["\u0120", "x"])
    found = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(core)), pad_token="<pad>", eos_token="<eos>", bos_token="<bos>",
        unk_token="<unk>", chat_template=tokenizer.chat_template,
    )  # fmt: skip
    assert found.tokenize("a xs") == ["a", "\u0120x", "s"]
    return found


def expect_first_class(scorer, task, row, name, second):
    """Return the probabilities of the first target's classes: each with all first tokens of the next one."""
    head, separator = encode_prompt(scorer.tokenizer, row.prompt), task.form.separator
    next_tokens = {scorer.tokens(separator + text)[0] for text in second}
    assert next_tokens.isdisjoint(scorer.tokens(separator))  # otherwise the separator's own token would be enough
    starts = [scorer.tokens(text) for text in row.choices[name]]
    log_p = [log_probability(scorer.model, head, tokens) + follow(scorer.model, head, tokens, next_tokens)
             for tokens in starts]  # fmt: skip
    return normalised(row.choices[name], log_p)


def test_a_class_that_begins_another_counts_with_every_way_the_next_target_can_begin(tokenizer, examples, tmp_path):
    (tmp_path / "words.csv").write_text(CSV)
    task = make_task(tmp_path / "words.csv", ["kind", "size"])
    words = with_words(tokenizer)
    model = tiny.build_model(words).eval()
    with torch.no_grad():  # a new model gives nearly the same probability to every token
        model.lm_head.weight.mul_(8)
    scorer = choice_scorer.ChoiceScorer(model, words)
    rows = examples[:8]
    for row, given in zip(rows, row_answers.answer_exactly(scorer, rows, task, rank_by="summed"), strict=True):
        expected = expect_first_class(scorer, task, row, "kind", row.choices["size"])
        assert dict(given["choices"]["kind"]) == pytest.approx(expected, abs=1e-4)


def test_a_class_that_begins_another_is_written_with_any_token_that_may_follow(tokenizer, examples, tmp_path):
    """By hand, of KINDS: after `a` either ` x` (the next target) or `b` may be written, after `ab` ` x` or `c`."""
    (tmp_path / "words.csv").write_text(CSV)
    task = make_task(tmp_path / "words.csv", ["kind", "size"])
    words = with_words(tokenizer)
    model = tiny.build_model(words).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
    scorer = choice_scorer.ChoiceScorer(model, words)
    a, b, c = scorer.tokens("abc")
    after = scorer.tokens(" xs")[0]
    paths = {"a": [a, after], "ab": [a, b, after], "abc": [a, b, c, after], "b": [b, after], "cab": [c, a, b, after]}
    rows = examples[:4]
    for row, given in zip(rows, row_answers.answer_exactly(scorer, rows, task), strict=True):
        log_p = written_by_hand(model, encode_prompt(words, row.prompt), list(paths.values()))
        assert sum(map(math.exp, log_p)) == pytest.approx(1, abs=1e-9)
        assert dict(given["choices"]["kind"]) == pytest.approx(dict(zip(paths, log_p, strict=True)), abs=1e-4)


def test_a_short_class_has_no_advantage_in_an_untrained_model(tokenizer, tmp_path):
    """For an untrained model all tokens are alike: a class of 1 token and one of 5 get half of the probability each."""
    names = ("a", "cabca")
    path = tmp_path / "lengths.csv"
    path.write_text("word,kind\n" + "".join(f"w{i},{names[i % 2]}\n" for i in range(40)))
    task = make_task(path, ["kind"])
    scorer = choice_scorer.ChoiceScorer(tiny.build_model(tokenizer).eval(), tokenizer)
    assert [len(scorer.tokens(name)) for name in names] == [1, 5]
    rows = read_examples(path, task)
    shares = {}
    for rank_by in ("summed", "written"):
        given = row_answers.answer_exactly(scorer, rows, task, rank_by=rank_by)
        shares[rank_by] = sum(math.exp(dict(one["choices"]["kind"])["a"]) for one in given) / len(given)
    assert shares["summed"] > 0.999  # four tokens more, each one of about 300
    assert shares["written"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("answers", "tokens", "expected"), [
    ([[5]], [[-9.0]], [1.0]),  # a token with no alternative costs nothing
    ([[5], [6]], [[math.log(0.03)], [math.log(0.01)]], [0.75, 0.25]),
    ([[5], [6, 7, 8, 9]], [[math.log(0.01)], [math.log(0.03), -5.0, -5.0, -5.0]], [0.25, 0.75]),
    ([[5, 1], [5, 7], [6]], [[-1.0, math.log(0.2)], [-1.0, math.log(0.6)], [-1.0]], [0.125, 0.375, 0.5]),
])  # fmt: skip
def test_written_scores_are_normalized_at_each_node(answers, tokens, expected):
    assert list(map(math.exp, tries.written_scores(answers, tokens))) == pytest.approx(expected, abs=1e-12)


def test_written_scores_do_not_depend_on_how_choices_are_divided_into_parts(
    taught, tokenizer, examples, task, monkeypatch
):
    many = [dataclasses.replace(e, choices=e.choices | {"size": [f"{n:03d}" for n in range(50)]}) for e in examples[:4]]
    sizes = dataclasses.replace(task, targets=task.targets[1:2])
    scorer = choice_scorer.ChoiceScorer(taught, tokenizer)
    whole = row_answers.answer_exactly(scorer, many, sizes)
    monkeypatch.setattr(choice_scorer, "ATTENTION_CELLS", 10_000)
    for one, other in zip(whole, row_answers.answer_exactly(scorer, many, sizes), strict=True):
        assert dict(one["choices"]["size"]) == pytest.approx(dict(other["choices"]["size"]), abs=1e-5)


def greedy_numbers(scorer, cache, next_tokens, longest):
    column, nothing = Column("count", "target", "int", longest=longest), [[] for _ in next_tokens]
    given = number_distributions.distributions(scorer, cache, nothing, "", next_tokens, column, greedy=True)
    return [text for row in given for text in row]


def test_a_number_ends_where_the_next_target_begins(tokenizer, examples, tmp_path):
    """A word's first token includes the space before it: that token ends the number, not a space alone."""
    (tmp_path / "words.csv").write_text(CSV)
    task = make_task(tmp_path / "words.csv", ["count", "size"])
    words = with_words(tokenizer)
    scorer = choice_scorer.ChoiceScorer(tiny.build_model(words).eval(), words)
    digits, word = scorer.tokens("1234567890"), scorer.tokens(" x")[0]
    cache = choice_scorer.PromptCache(3)
    scorer.read(cache, [encode_prompt(words, row.prompt) for row in examples[:3]])
    steps = iter([digits[0], digits[1], word])
    scorer.head = lambda hidden, allowed: (
        50.0 * torch.nn.functional.one_hot((allowed == next(steps)).nonzero()[0].repeat(3), len(allowed))
    )
    next_tokens = [scorer.next_tokens(task, 0, row) for row in examples[:3]]
    assert next_tokens == [[word]] * 3
    assert greedy_numbers(scorer, cache, next_tokens, 9) == ["12"] * 3


def test_a_row_does_not_stop_at_a_next_token_of_another_row(tokenizer, examples):
    scorer = choice_scorer.ChoiceScorer(tiny.build_model(tokenizer).eval(), tokenizer)
    a, b, one = scorer.tokens("ab1")
    cache = choice_scorer.PromptCache(2)
    scorer.read(cache, [encode_prompt(tokenizer, row.prompt) for row in examples[:2]])
    liked = {a: 3.0, one: 2.0}  # both rows like `a` best; only the first may be followed by it
    scorer.head = lambda hidden, allowed: torch.tensor([[liked.get(t, 0.0) for t in allowed.tolist()]] * 2)
    assert greedy_numbers(scorer, cache, [[a], [b]], 4) == ["1", "1111"]  # a number has a digit


def test_a_number_target_before_a_class_is_written_and_the_class_scored_after_it(taught, tokenizer, examples, tmp_path):
    path = tmp_path / "words.csv"
    path.write_text(CSV)
    task = make_task(path, ["count", "size"])
    rows = examples[:6]
    scorer = choice_scorer.ChoiceScorer(taught, tokenizer)
    for row, given in zip(rows, row_answers.answer_exactly(scorer, rows, task, numbers="greedy"), strict=True):
        head = encode_prompt(tokenizer, row.prompt)
        number = number_by_hand(taught, tokenizer, head, "", task.form.separator, longest(task))
        sizes = [[*scorer.tokens(task.form.separator + text), scorer.end] for text in row.choices["size"]]
        expected = normalised(row.choices["size"], written_by_hand(taught, head + scorer.tokens(number), sizes))
        assert list(given["choices"]) == ["size"]
        assert dict(given["choices"]["size"]) == pytest.approx(expected, abs=1e-4)
        assert given["raw_text"] == f"{number}{task.form.separator}{max(expected, key=expected.get)}"


def test_a_number_has_no_more_characters_than_its_column_allows(taught, tokenizer, small_links):
    task = make_task(small_links / "links.csv", ask="row")  # its throughputs range from 5 to 1000
    rows = read_examples(small_links / "links.csv", task, "test", 5)
    for given in row_answers.answer_exactly(
        choice_scorer.ChoiceScorer(taught, tokenizer), rows, task, numbers="greedy"
    ):
        channel, number = given["raw_text"].split(task.form.separator)
        assert channel == given["choices"]["recommended_channel_mhz"][0][0]
        assert len(number) <= 4 and set(number) <= set("0123456789-.")


def test_the_taught_model_knows_what_it_was_taught(taught, tokenizer, examples, task):
    """Scoring, writing and training agree on the format: otherwise a trained model would look untrained."""
    seen = examples[:10]
    scorer = choice_scorer.ChoiceScorer(taught, tokenizer)
    for answers in (row_answers.answer_exactly(scorer, seen, task), row_answers.answer_freely(scorer, seen, task)):
        pairs = zip(answers, seen, strict=True)
        assert sum(answer["raw_text"].split()[:1] == row.answer.split()[:1] for answer, row in pairs) >= 9


@pytest.fixture(scope="module")
def embedded():
    from linklab.models import load

    return load.load_model("embedded").eval(), load.load_tokenizer("embedded")


@pytest.mark.slow
@pytest.mark.parametrize("start, choices, end", [
    ("", ["5180", "5200", "5775", "51"], False), ("", ["red", "reddish", "green"], True),
    ("5180", [" 12", " 120"], True),
])  # fmt: skip
def test_on_the_embedded_model_trie_scores_are_those_of_asking_for_each_choice_alone(embedded, start, choices, end):
    scorer = choice_scorer.ChoiceScorer(*embedded)
    prompts = [
        "FCC 802.11ac 20 MHz 4200 m 20 dBm 23 dBi radar 0\n5180 -61 -92 35\n5200 -60 -90 10" * 12,
        "Say a number",
    ]
    heads = [encode_prompt(scorer.tokenizer, prompt) for prompt in prompts]
    assert len(heads[0]) > scorer.model.config.sliding_window
    answers = [scorer.tokens(text) + [scorer.end] * end for text in choices]
    cache = choice_scorer.PromptCache(2)
    scorer.read(cache, heads)
    found = scorer.score_choices(cache, [scorer.tokens(start)] * 2, [answers] * 2)
    for head, scores in zip(heads, found, strict=True):
        assert scores == pytest.approx(brute_force(scorer.model, head + scorer.tokens(start), answers), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("targets", [("red", "dark"), ("dark red", "pale blue"), ("12", "-3.5"), ("5775", "594")])
def test_an_answer_scored_in_parts_has_the_tokens_it_was_trained_with(embedded, targets, tmp_path):
    """Gemma's tokens may span a space: `red dark` is `red`, ` dark`, so the space belongs to the part after it."""
    path = tmp_path / "t.csv"
    others = ["blue" if part[0].isalpha() else "1" for part in targets]
    rows = [f"{i},{targets[0] if i % 2 else others[0]},{targets[1] if i % 3 else others[1]}" for i in range(60)]
    path.write_text("x,first,second\n" + "\n".join(rows) + "\n")
    task = make_task(path, ["first", "second"])
    scorer = choice_scorer.ChoiceScorer(*embedded)
    whole = encode_answer(scorer.tokenizer, task.write_answer(dict(zip(("first", "second"), targets, strict=True))))
    assert scorer.tokens(targets[0]) + scorer.tokens(task.form.separator + targets[1]) + [scorer.end] == whole


@pytest.mark.slow
def test_on_the_embedded_model_a_class_that_begins_another_counts_with_what_may_follow(embedded, tmp_path):
    path = tmp_path / "t.csv"
    first, second = ("1", "10", "100", "7"), ("dark", "pale", "dim")
    path.write_text("x,first,second\n" + "".join(f"w{i},{first[i % 4]},{second[i % 3]}\n" for i in range(60)))
    scorer = choice_scorer.ChoiceScorer(*embedded)
    task = make_task(path, ["second", "first"])
    task = dataclasses.replace(task, targets=tuple(dataclasses.replace(t, kind="class", choices=choices) for t, choices
                               in zip(task.targets[::-1], (first, second), strict=True)))  # fmt: skip
    rows = [dataclasses.replace(row, choices={"first": list(first), "second": list(second)})
            for row in read_examples(path, make_task(path, ["second"]))[:3]]  # fmt: skip
    for row, given in zip(rows, row_answers.answer_exactly(scorer, rows, task, rank_by="summed"), strict=True):
        expected = expect_first_class(scorer, task, row, "first", second)
        assert dict(given["choices"]["first"]) == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def json_task(tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "words.csv"
    path.write_text(CSV)
    return make_task(path, ["kind", "count", "size"], answer_format="json")


@pytest.mark.parametrize("numbers", ["median", "greedy"])
@pytest.mark.parametrize("rank_by", ["written", "summed"])
def test_json_answers_of_a_model_that_knows_nothing_are_legal(tokenizer, examples, json_task, numbers, rank_by):
    """Judge: json.loads, and the column's own values."""
    model = tiny.build_model(tokenizer).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
    scorer = choice_scorer.ChoiceScorer(model, tokenizer)
    for given in row_answers.answer_exactly(scorer, examples[:12], json_task, numbers=numbers, rank_by=rank_by):
        value = json.loads(given["raw_text"])
        assert list(value) == ["kind", "count", "size"]
        assert value["kind"] in KINDS and value["size"] in ("xs", "xl")
        assert isinstance(value["count"], int | float) and given["error"] is None
        assert f'"count": {given["answer"]["count"]},' in given["raw_text"]
        assert [given["answer"][name] for name in ("kind", "size")] == [value["kind"], value["size"]]


def test_json_classes_are_scored_as_the_whole_object_they_are_part_of(tokenizer, examples, json_task):
    """By hand: each class in quotes followed by the next key, after a prompt and the start of the object."""
    model = tiny.build_model(tokenizer).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
    scorer = choice_scorer.ChoiceScorer(model, tokenizer)
    for row, given in zip(examples[:4], row_answers.answer_exactly(scorer, examples[:4], json_task), strict=True):
        head = encode_prompt(tokenizer, row.prompt) + scorer.tokens('{"kind":')
        paths = [scorer.tokens(f' "{kind}", "count":') for kind in row.choices["kind"]]
        expected = dict(zip(row.choices["kind"], written_by_hand(model, head, paths), strict=True))
        assert dict(given["choices"]["kind"]) == pytest.approx(expected, abs=1e-4)
        behind = json.loads(given["raw_text"])
        head = encode_prompt(tokenizer, row.prompt) + scorer.tokens(given["raw_text"].rpartition(' "')[0])
        paths = [[*scorer.tokens(f' "{size}"}}'), scorer.end] for size in row.choices["size"]]
        expected = dict(zip(row.choices["size"], written_by_hand(model, head, paths), strict=True))
        assert max(expected, key=expected.get) == behind["size"]


def test_the_pieces_of_a_json_answer_are_the_tokens_training_learnt(tokenizer, json_task):
    form = json_task.form
    for target in ({"kind": "abc", "count": "-12.5", "size": "xl"}, {"kind": "b", "count": "7", "size": "xs"}):
        pieces = [form.head] + [
            form.before(i) + form.value(target[t.name], t.kind) + form.after(i)
            for i, t in enumerate(json_task.targets)
        ]  # fmt: skip
        whole = json_task.write_answer(target)
        assert "".join(pieces) == whole
        assert [token for piece in pieces for token in tokenizer(piece, add_special_tokens=False)["input_ids"]] == (
            encode_answer(tokenizer, whole)[:-1]
        )
