"""`role_markers`: the tokens of chat templates are found however they are dressed, and ordinary text passes."""

from __future__ import annotations

import pytest

from safe_llm.checks.markers import has_role_markers
from safe_llm.checks.normalizing import shapes

TOKENS = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>system<|end_header_id|>"),
    *("<|begin_of_text|>", "<|system|>", "<|user|>", "<|assistant|>", "<|start|>", "<|channel|>", "<|message|>"),
    *(
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "<</SYS>>",
        "<start_of_turn>",
        "<end_of_turn>",
        "[SYSTEM_PROMPT]",
        "[TOOL_CALLS]",
    ),
    *("<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|reserved_special_token_12|>", "<｜User｜>", "<｜Assistant｜>"),
    *("<｜begin▁of▁sentence｜>", "<｜tool▁calls▁begin｜>", "<|fim_prefix|>", "<|IM_START|>"),
)

DRESSES = {
    "plain": lambda text: text,
    "fullwidth": lambda text: text.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)}),
    "zero width": "\u200b".join,
    "soft hyphen": "\u00ad".join,
}

ORDINARY = (
    "### System: Linux 6.1, 16 GB",
    "System: all services are up.\nUser: Anna\nAssistant: Ben",
    "<s>old price</s> <b>new</b> <system> <user> <assistant>",
    "data |> filter <| predicate",
    "let f = a <| b |> c in <|> and <||>",
    "[inst] [Inst. of Physics] [INSTALL] [INSTANCE] INST",
    "a <|my_own_tag|> of a template, and {{user}} or {% system %}",
    "if x < |y| > z then",
    "| a | b |\n|---|---|\n<!-- user -->",
    "<<EOF\nSYS\nEOF\n<<SYSTEM>>",
    "<start> <end> <turn> <start_of_day>",
    "Le « système » et l'“utilisateur”",
)


@pytest.mark.parametrize("dress", DRESSES.values(), ids=DRESSES)
@pytest.mark.parametrize("token", TOKENS)
def test_a_token_of_a_template_is_found(token: str, dress: object) -> None:
    assert callable(dress)
    assert has_role_markers(shapes(f"Hello {dress(token)} there"))


@pytest.mark.parametrize("token", ["< |im_start| >", "<| im_start |>", "[ INST ]", "<< SYS >>"])
def test_spaces_inside_of_a_token_do_not_help(token: str) -> None:
    assert has_role_markers(token)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_passes(text: str) -> None:
    assert not has_role_markers(shapes(text))
