"""Conversations from other tools: valid files, lines that are rejected, and the loss on every assistant turn."""

import contextlib
import json

import pytest
import torch
from linklab.cli import UserError
from linklab.models import tiny
from linklab.tasks import conversations, source
from linklab.training import answer_loss


def talk(*texts, system=None):
    """Return a line with alternating user and assistant turns."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"messages": ([{"role": "system", "content": system}] if system else []) + turns}


def write(path, *lines):
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_conversation_is_one_row_with_a_question_per_assistant_turn(tmp_path):
    path = write(tmp_path / "talk.jsonl", talk("hi", "hello", "and you?", "fine", system="be kind"))
    for split in ("train", "validation", "test"):
        with contextlib.suppress(UserError):
            (example,) = conversations.read_conversations(path, split)
    first, last = example.questions
    assert (first.prompt, first.answer, first.history) == ("be kind\n\nhi", "hello", ())
    assert (last.prompt, last.answer) == ("and you?", "fine")
    assert last.history == (("user", "be kind\n\nhi"), ("assistant", "hello"))
    assert example.target == {"reply": "fine"} and example.answer == "fine"
    assert example.prompt == example.row["conversation"] == "user: be kind\n\nhi\nassistant: hello\nuser: and you?"


def test_user_messages_decide_the_side_and_copies_count_once_outside_training(tmp_path):
    lines = [talk(f"question {i}", f"answer {i}") for i in range(300)]
    path = write(tmp_path / "a.jsonl", *lines, *lines, *[talk(f"question {i}", "another answer") for i in range(300)])
    sides = {split: conversations.read_conversations(path, split) for split in ("train", "validation", "test")}
    asked = {split: {e.prompt for e in examples} for split, examples in sides.items()}
    assert sum(map(len, asked.values())) == 300 and not asked["train"] & asked["test"]
    assert 200 < len(asked["train"]) < 280
    assert len(sides["train"]) == 3 * len(asked["train"]) and len(sides["test"]) == 2 * len(asked["test"])
    shuffled = write(tmp_path / "b.jsonl", *lines[::-1])
    assert {e.prompt for e in conversations.read_conversations(shuffled, "test")} == asked["test"]
    few = conversations.read_conversations(path, "train", 10)
    assert [e.id for e in few] == [e.id for e in sides["train"][:10]]


@pytest.mark.parametrize("n", [3, 6, 12])
def test_few_conversations_leave_no_side_empty(tmp_path, n):
    path = write(tmp_path / "talk.jsonl", *[talk(f"question {i}", f"answer {i}") for i in range(n)])
    task, read = source.open_folder(path)
    sides = [read(split, None) for split in ("train", "validation", "test")]
    assert min(map(len, sides)) >= 1 and sum(map(len, sides)) == n
    more = write(tmp_path / "more.jsonl", *[talk(f"question {i}", f"answer {i}") for i in range(3 * n)])
    _, again = source.open_folder(more, 0, task.split)  # with the split rule of a model trained on the first ones
    seen = {example.prompt for example in again("test", None)}
    assert {example.prompt for example in sides[2]} <= seen and not seen & {e.prompt for e in sides[0]}


def test_a_folder_is_read_whole_and_text_parts_are_joined(tmp_path):
    write(tmp_path / "one.jsonl", talk("a", "b"))
    parts = [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]
    two = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": " e\n"}], "score": 3}
    write(tmp_path / "two.jsonl", two)
    (tmp_path / "readme.txt").write_text("not a conversation")
    assert [path.name for path in conversations.conversation_files(tmp_path)] == ["one.jsonl", "two.jsonl"]
    found = []
    for split in ("train", "validation", "test"):
        with contextlib.suppress(UserError):  # two conversations fill two sides at most
            found += conversations.read_conversations(tmp_path, split)
    assert sorted((e.prompt, e.answer) for e in found) == [("a", "b"), ("cd", "e")]
    (tmp_path / "task.json").write_text("{}")
    assert conversations.conversation_files(tmp_path) == []  # a folder this toolkit wrote


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "not JSON at column 1"),
        ('{"text": "hello"}', "no list 'messages'"),
        ("[1]", "no list 'messages'"),
        ('{"messages": []}', "no list 'messages'"),
        (json.dumps(talk("a", "b", "c")), "the roles are user, assistant, user: "),
        (json.dumps({"messages": talk("a", "b")["messages"][::-1]}), "the roles are assistant, user: "),
        ('{"messages": [{"role": "system", "content": "x"}]}', "the roles are none"),
        ('{"messages": [{"role": "assistant", "tool_calls": []}, {"role": "tool"}]}',
         'a message\'s role is "tool": tool calls'),
        ('{"messages": ["x"]}', "a message's role is null"),
        (json.dumps(talk("a", " ")), "an empty assistant message"),
        (json.dumps(talk("a", None)), "a message's content is not a text"),
        (json.dumps(talk([{"type": "image"}], "b")), "a message's content is not a text"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "half a character (a lone surrogate)"),
        ('{"messages": ' + "[" * 100_000, ""),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
    ],
)  # fmt: skip
def test_an_invalid_conversation_is_rejected_by_file_and_line(tmp_path, line, said):
    path = tmp_path / "talk.jsonl"
    path.write_bytes(
        json.dumps(talk("a", "b")).encode() + b"\n\n" + (line if isinstance(line, bytes) else line.encode())
    )
    with pytest.raises(UserError) as caught:
        conversations.read_conversations(path, "train")
    assert str(caught.value).startswith(f"{path}:3: {said}")
    assert "expected" in str(caught.value) or "UTF-8" in str(caught.value)


def test_the_loss_is_that_of_every_assistant_turn_in_the_whole_conversation(tmp_path):
    """Reference: one plain forward over the whole conversation, cross-entropy on the assistant's tokens."""
    path = write(
        tmp_path / "talk.jsonl",
        *[talk(f"hi {i}", "hello", "how much?", f"{i} euros", "bye", "bye!") for i in range(40)],
    )
    task, read = source.open_folder(path)
    assert [(t.name, t.kind) for t in task.targets] == [("reply", "text")]
    examples = read("train", 3)
    tokenizer = tiny.build_tokenizer()
    encoded = answer_loss.EncodedExamples(examples, tokenizer, 512)
    model = tiny.build_model(tokenizer)
    total, count = 0.0, 0
    for example in examples:
        turns = [*example.questions[-1].history, ("user", example.questions[-1].prompt), ("assistant", example.answer)]
        tokens, labels = [tokenizer.bos_token_id], [-100]
        for role, text in turns:
            name = "model" if role == "assistant" else role
            head = tokenizer(f"<start_of_turn>{name}\n", add_special_tokens=False)["input_ids"]
            body = tokenizer(f"{text}<end_of_turn>", add_special_tokens=False)["input_ids"]
            tail = tokenizer("\n", add_special_tokens=False)["input_ids"]
            tokens += head + body + tail
            labels += [-100] * len(head) + (body if role == "assistant" else [-100] * len(body)) + [-100] * len(tail)
        logits = model(input_ids=torch.tensor([tokens])).logits[0, :-1]
        wanted = torch.tensor(labels[1:])
        total += torch.nn.functional.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum").item()
        count += int((wanted != -100).sum())
    answer_loss.use_answer_only_loss(model)
    batch = answer_loss.AnswerCollator(0)([encoded[i] for i in range(3)])
    assert encoded.answer_tokens == count
    assert model(**batch).loss.item() == pytest.approx(total / count, abs=1e-5)
